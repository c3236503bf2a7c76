"""Compiles, before the first request comes, every kernel that a step may need.

Triton compiles a kernel at its first use, for a second or so; what it compiled is kept in its cache on disk.
Called by `loader.py`. Invariant: leaves the cache of keys and values zeroed, as it was.
"""

import numpy as np
import torch

from engine_core.model.cuda.step_arrays import LONG_ROWS, MIN_SEGMENT_TOKENS, SEGMENT_CHOICES
from engine_core.model.kv_tensors import KVTensors
from engine_core.model.network import Network, chunk_logits


@torch.inference_mode()
def warm_up(network: Network, kv_tensors: KVTensors, max_model_len: int) -> None:
    """Run a prompt, and a decode for each number of segments, all in the first block."""
    lengths = [segments * MIN_SEGMENT_TOKENS for segments in SEGMENT_CHOICES]
    chunks = [(0, LONG_ROWS), *((length - 1, 1) for length in lengths)]
    for num_computed, num_tokens in chunks:
        num_tokens = min(num_tokens, max_model_len)
        num_computed = min(num_computed, max_model_len - num_tokens)
        block_ids = np.zeros(-(-(num_computed + num_tokens) // kv_tensors.block_size), dtype=np.int32)
        chunk_logits(network, np.zeros(num_tokens, dtype=np.int64), num_computed, block_ids, kv_tensors)
    for tensor in (*kv_tensors.keys, *kv_tensors.values):
        tensor[: kv_tensors.block_size].zero_()
