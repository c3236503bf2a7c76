"""Compiles, before the first request comes, every kernel that a step may need.

Triton compiles a kernel at its first use, for a second or so; what it compiled is kept in its cache on disk.
Called by `loader.py`. Invariant: leaves the cache of keys and values zeroed, as it was.
"""

import numpy as np
import torch

from engine_core.model.cuda.step_arrays import LONG_ROWS, MIN_SEGMENT_TOKENS, SEGMENT_CHOICES
from engine_core.model.kv_tensors import KVTensors
from engine_core.model.network import Network, chunk_logits
from engine_core.model.sampling.state import SamplingState
from engine_core.model.sampling.token_picker import RandomRows, TokenPicker
from engine_core.outputs import NewRequestData, RequestKey
from ipc.messages import Task
from ipc.sampling_params import SamplingParams

_SAMPLED = SamplingParams(max_tokens=1, temperature=1.0, top_k=2, top_p=0.5, min_p=0.1)


@torch.inference_mode()
def warm_up(network: Network, kv_tensors: KVTensors, picker: TokenPicker, max_model_len: int) -> None:
    """Run a prompt, and a decode for each number of segments, all in the first block, and pick a token."""
    lengths = [segments * MIN_SEGMENT_TOKENS for segments in SEGMENT_CHOICES]
    logits = torch.empty(0)
    for num_computed, num_tokens in ((0, LONG_ROWS), *((length - 1, 1) for length in lengths)):
        num_tokens = min(num_tokens, max_model_len)
        num_computed = min(num_computed, max_model_len - num_tokens)
        block_ids = np.zeros(-(-(num_computed + num_tokens) // kv_tensors.block_size), dtype=np.int32)
        token_ids = np.zeros(num_tokens, dtype=np.int64)
        logits = chunk_logits(network, token_ids, num_computed, block_ids, kv_tensors)
    for tensor in (*kv_tensors.keys, *kv_tensors.values):
        tensor[: kv_tensors.block_size].zero_()
    state = SamplingState(NewRequestData(RequestKey(0), (0,), 1, _SAMPLED, Task.GENERATE, ()))
    picker.pick(logits[-1:].float(), RandomRows.build([state], network.vocab_size, logits.device))
