"""Runs steps on a network: flat batch in, one token or embedding per finished chunk out.

Made by `loader.py`; the core calls `execute` once per step. All scheduled tokens form one row `[1, num_tokens]`, so
prefill chunks and decodes go through the linear layers together; only attention sees requests (`attention.py`).
Logits are computed for the rows that sample, and for no others.
Next: `input_batch.py`, `attention.py`, `sampler.py`.
"""

import numpy as np
import torch

from engine_core.model.attention import RequestSpan, build_attention_metadata
from engine_core.model.input_batch import CachedRequest, InputBatch, StepInputs
from engine_core.model.kv_tensors import KVTensors
from engine_core.model.network import Network, flat_batch
from engine_core.model.sampler import SamplingMetadata, build_sampling_metadata, sample
from engine_core.outputs import ModelInfo, ModelRunnerOutput, RequestKey, SchedulerOutput


class TorchModelRunner:
    """A `ModelRunner` on any `Network`."""

    def __init__(self, network: Network, kv_tensors: KVTensors, info: ModelInfo) -> None:
        self._network = network
        self._kv_tensors = kv_tensors
        self._info = info
        self._device = kv_tensors.device
        self._batch = InputBatch(kv_tensors.block_size)
        self._sampling_keys: tuple[RequestKey, ...] = ()
        self._sampling_metadata: SamplingMetadata | None = None

    @property
    def info(self) -> ModelInfo:
        """Facts about the loaded model."""
        return self._info

    @property
    def num_requests(self) -> int:
        """Requests whose state is kept."""
        return len(self._batch)

    @torch.inference_mode()
    def execute(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Run one step: write the keys and values of every scheduled token, then sample.

        Raises:
            ValueError: a request is scheduled beyond its tokens or its blocks.
            KeyError: a request is scheduled that was never given as new.
        """
        self._batch.apply(step)
        output = ModelRunnerOutput()
        if not step.scheduled:
            return output
        inputs = self._batch.build(step.scheduled)
        metadata = build_attention_metadata(inputs.spans, self._kv_tensors)
        hidden = flat_batch(self._network, inputs.input_ids, inputs.positions, metadata, self._kv_tensors)
        for request, span, is_last_chunk in inputs.embedding_spans:
            self._pool(request, span, hidden, is_last_chunk, output)
        if inputs.sampling_requests:
            self._sample(inputs, hidden, output)
        return output

    # --- sampling ----------------------------------------------------------------------------------------------------

    def _sample(self, inputs: StepInputs, hidden: torch.Tensor, output: ModelRunnerOutput) -> None:
        requests = inputs.sampling_requests
        logits = self._network.logits(hidden[torch.from_numpy(inputs.sampling_rows).to(self._device)])
        positions = np.array([request.num_output_tokens for request in requests], dtype=np.int64)
        sampled = sample(logits, self._sampling_metadata_for(requests), positions)
        for request, token_id, failed in zip(requests, sampled.token_ids, sampled.failed, strict=True):
            if failed:
                output.failures[request.key] = "nan_logits"
            else:
                output.sampled_token_ids[request.key] = token_id
                self._batch.append_token(request.key, token_id)

    def _sampling_metadata_for(self, requests: tuple[CachedRequest, ...]) -> SamplingMetadata:
        keys = tuple(request.key for request in requests)
        if self._sampling_metadata is None or keys != self._sampling_keys:
            self._sampling_metadata = build_sampling_metadata(
                [request.sampling_params for request in requests],
                self._info.eos_token_ids,
                self._info.vocab_size,
                self._device,
            )
            self._sampling_keys = keys
        return self._sampling_metadata

    # --- embeddings --------------------------------------------------------------------------------------------------

    def _pool(
        self,
        request: CachedRequest,
        span: RequestSpan,
        hidden: torch.Tensor,
        is_last_chunk: bool,
        output: ModelRunnerOutput,
    ) -> None:
        """Add a chunk to the sum of an EMBED request; at the end, give the normalized mean."""
        rows = hidden[span.query_start : span.query_start + span.num_queries]
        chunk_sum = rows.sum(dim=0, dtype=torch.float32)
        request.hidden_sum = chunk_sum if request.hidden_sum is None else request.hidden_sum + chunk_sum
        request.num_pooled += span.num_queries
        if not is_last_chunk:
            return
        norm = torch.linalg.vector_norm(request.hidden_sum)
        if request.num_pooled != len(request.token_ids):
            output.failures[request.key] = "incomplete_embedding"  # a cached prefix has no hidden states
        elif not bool(torch.isfinite(norm)) or norm == 0:
            output.failures[request.key] = "nan_embedding"
        else:
            output.embeddings[request.key] = (request.hidden_sum / norm).tolist()
