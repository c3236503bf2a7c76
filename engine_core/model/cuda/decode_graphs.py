"""Decode steps as CUDA graphs: hundreds of kernels are launched at once, so the host no longer sets the pace.

Captured once at the start, for each of a few batch sizes, largest first, in one pool of memory: they never run at the
same time. A batch is padded to the next size. Everything else (prompts, drafts, embeddings) runs kernel by kernel.
Invariant: a replay computes what the network would, with the same kernels. Made by `loader.py`, used by
`model_runner.py`. Next: `decode_arrays.py`.
"""

import logging

import numpy as np
import torch

from engine_core.model.attention import AttentionMetadata
from engine_core.model.cuda.attention import TritonAttention
from engine_core.model.cuda.decode_arrays import DecodeArrays
from engine_core.model.input_batch import StepInputs
from engine_core.model.kv_tensors import KVTensors
from engine_core.model.network import Network
from engine_core.model.step_spans import StepSpans

logger = logging.getLogger(__name__)


def try_capture(
    network: Network, kv_tensors: KVTensors, max_num_seqs: int, max_model_len: int
) -> "DecodeGraphs | None":
    """Graphs for batches of up to `max_num_seqs` decodes; None, with a warning, where that fails."""
    graphs = DecodeGraphs(network, kv_tensors, max_num_seqs, max_model_len)
    try:
        graphs.capture()
    except RuntimeError as error:
        logger.warning("without CUDA graphs, as this model cannot be captured: %s", error)
        return None
    return graphs


class DecodeGraphs:
    """One graph for each batch size."""

    def __init__(self, network: Network, kv_tensors: KVTensors, max_num_seqs: int, max_model_len: int) -> None:
        """Nothing is captured yet."""
        self._network = network
        self._kv_tensors = kv_tensors
        self._arrays = DecodeArrays(max_num_seqs, max_model_len, kv_tensors.block_size, kv_tensors.device)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}

    @torch.inference_mode()
    def capture(self) -> None:
        """Capture all sizes; the cache is not changed. Raises `RuntimeError` where the network cannot be captured."""
        no_counts, no_ids = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
        nobody = StepSpans(no_counts, no_counts, no_ids, np.empty((0, 0), dtype=np.int32), self._kv_tensors.block_size)
        pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream(self._kv_tensors.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for size in reversed(self._arrays.sizes):
                self._arrays.fill(size, no_ids, nobody)
                self._compute(size)  # compiles kernels and sets up libraries, which cannot be captured
                stream.synchronize()
                graph = torch.cuda.CUDAGraph()
                graph.capture_begin(pool)
                try:
                    output = self._compute(size)
                finally:
                    graph.capture_end()
                self._graphs[size] = graph, output
        torch.cuda.current_stream().wait_stream(stream)

    def try_run(self, inputs: StepInputs) -> torch.Tensor | None:
        """`[num_tokens, hidden_size]`, valid until the next call; None for a batch that is not of decodes alone."""
        size = self._arrays.try_fill(inputs)
        if size is None:
            return None
        graph, output = self._graphs[size]
        graph.replay()
        return output[: len(inputs.input_ids)]

    def _compute(self, size: int) -> torch.Tensor:
        input_ids, positions, arrays = self._arrays.views(size)
        attention = TritonAttention(arrays, lambda tiling: self._arrays.tiles(size, tiling))
        return self._network.hidden_states(input_ids, positions, AttentionMetadata((), attention), self._kv_tensors)
