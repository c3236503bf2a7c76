"""The memory of the paged KV cache: two tensors per layer, addressed by slot = block id * block size + offset.

Allocated once by `loader.py` as `memory_plan.py` says; written and read only by `attention.py`. Which request owns a
slot is decided by the scheduler's block pool. On CPU the pages are zero pages of the kernel until first written, so a
large cache costs no start-up time and no memory before it is used.
"""

import mmap
from dataclasses import dataclass
from typing import Protocol

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


class CacheShape(Protocol):
    """What the cache must know of a model; its config has it."""

    @property
    def num_layers(self) -> int:
        """Layers with a cache."""
        ...

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and values in a layer."""
        ...

    @property
    def head_dim(self) -> int:
        """Length of a key, and of a value."""
        ...


def allocate_kv_tensors(
    model: CacheShape, *, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
) -> KVTensors:
    """Allocate the cache of a model, filled with zeros."""
    shape = (num_blocks * block_size, model.num_kv_heads, model.head_dim)
    keys, values = (tuple(_zeros(shape, dtype, device) for _ in range(model.num_layers)) for _ in range(2))
    return KVTensors(keys, values, block_size)


def _zeros(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = shape[0] * shape[1] * shape[2] * dtype.itemsize
    mapping = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # torch.zeros would touch every page; an anonymous mapping is zero without being touched. The tensor keeps it alive.
    return torch.frombuffer(mapping, dtype=dtype).view(shape)
