"""The cache's memory: shapes, zeros, and no cost before use."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine_core.model.kv_tensors import allocate_kv_tensors


def allocate(dtype=torch.bfloat16, num_blocks=4):
    model = SimpleNamespace(num_layers=3, num_kv_heads=2, head_dim=8)
    return allocate_kv_tensors(model, num_blocks=num_blocks, block_size=16, dtype=dtype, device=torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_and_zeros(dtype):
    cache = allocate(dtype)
    assert (cache.num_layers, cache.num_slots, cache.dtype) == (3, 64, dtype)
    assert all(tensor.shape == (64, 2, 8) and not tensor.any() for tensor in (*cache.keys, *cache.values))


def test_tensors_do_not_share_memory():
    cache = allocate()
    cache.keys[1].fill_(1.0)
    assert not cache.values[1].any()
    assert not cache.keys[0].any()
    assert not cache.keys[2].any()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_large_cache_takes_memory_only_where_it_is_written():
    before = resident_bytes()
    cache = allocate(torch.float32, num_blocks=100_000)  # 0.6 GB in all
    assert resident_bytes() - before < 50e6
    cache.keys[0].fill_(1.0)
    assert resident_bytes() - before > 50e6
