"""The memory of the paged KV cache: two tensors per layer, addressed by slot = block id * block size + offset.

Allocated once by `loader.py` as `memory_plan.py` says; written and read only by `attention.py`. Which request owns a
slot is decided by the scheduler's block pool. On CPU the pages are zero pages of the kernel until first written, so a
large cache costs no start-up time and no memory before it is used.
"""

import mmap
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class KVTensors:
    """Keys and values of all layers; each tensor is `[num_blocks * block_size, num_kv_heads, head_dim]`."""

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    block_size: int

    @property
    def num_layers(self) -> int:
        """Layers with a cache."""
        return len(self.keys)

    @property
    def num_slots(self) -> int:
        """Tokens that the cache can hold."""
        return self.keys[0].shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Of keys and values."""
        return self.keys[0].dtype

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.keys[0].device


def allocate_kv_tensors(
    *,
    num_layers: int,
    num_blocks: int,
    block_size: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
) -> KVTensors:
    """Allocate the cache, filled with zeros."""
    shape = (num_blocks * block_size, num_kv_heads, head_dim)
    tensors = [_zeros(shape, dtype, device) for _ in range(2 * num_layers)]
    return KVTensors(tuple(tensors[:num_layers]), tuple(tensors[num_layers:]), block_size)


def _zeros(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = shape[0] * shape[1] * shape[2] * dtype.itemsize
    mapping = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # torch.zeros would touch every page; an anonymous mapping is zero without being touched. The tensor keeps it alive.
    return torch.frombuffer(mapping, dtype=dtype).view(shape)
