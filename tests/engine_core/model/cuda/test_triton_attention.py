"""The attention kernels against plain torch in fp32, on a GPU."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine_core.model.attention import build_attention_metadata
from engine_core.model.kv_tensors import allocate_kv_tensors
from engine_core.model.request_span import RequestSpan

pytestmark = pytest.mark.gpu

NUM_BLOCKS, BLOCK_SIZE = 400, 16
DECODES = [(0, 1), (5, 1), (300, 1), (1500, 1)]
MIXED = [(0, 1), (1500, 1), (40, 3), (0, 150), (70, 33), (200, 130), (0, 17)]


def run_both(heads, kv_heads, dim, requests, dtype=torch.float32, window=None, softcap=None):
    """Outputs of the kernels and of plain torch in fp32, and both caches; unwritten slots hold NaN."""
    torch.manual_seed(dim)
    device = torch.device("cuda")
    shape = SimpleNamespace(num_layers=1, num_kv_heads=kv_heads, head_dim=dim)
    blocks = np.random.default_rng(1).permutation(NUM_BLOCKS).astype(np.int32)
    spans, start, used = [], 0, 0
    for num_computed, num_queries in requests:
        count = -(-(num_computed + num_queries) // BLOCK_SIZE)
        spans.append(RequestSpan(start, num_queries, num_computed, blocks[used : used + count], BLOCK_SIZE))
        start, used = start + num_queries, used + count
    query = torch.randn(start, heads, dim, device=device).to(dtype)
    key, value = torch.randn(2, start, kv_heads, dim, device=device).to(dtype)
    context = torch.randn(2, NUM_BLOCKS * BLOCK_SIZE, kv_heads, dim, device=device).to(dtype)
    results = []
    for in_plain_torch in (False, True):
        kind = torch.float32 if in_plain_torch else dtype
        cache = allocate_kv_tensors(shape, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE, dtype=kind, device=device)
        for tensor, source in zip((cache.keys[0], cache.values[0]), context, strict=True):
            tensor.fill_(torch.nan)
            for span in spans:
                slots = torch.from_numpy(span.slots[: span.num_computed_tokens]).to(device)
                tensor[slots] = source[slots].to(kind)
        metadata = build_attention_metadata(spans, cache, in_plain_torch=in_plain_torch)
        output = metadata.attention.attend(
            *(states.to(kind) for states in (query, key, value)),
            *(cache.keys[0], cache.values[0]),
            scale=0.2,
            window=window,
            softcap=softcap,
        )
        results.append((output.float(), cache.keys[0].float(), cache.values[0].float()))
    return results


@pytest.mark.parametrize("requests", [DECODES, MIXED], ids=["decodes", "mixed"])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (12, None), (100, 5.0), (None, 3.0)])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(6, 2, 32), (9, 3, 64), (4, 4, 80), (8, 1, 256), (40, 2, 128)])
def test_outputs_equal_those_of_plain_torch(heads, kv_heads, dim, window, softcap, requests):
    (output, keys, values), expected = run_both(heads, kv_heads, dim, requests, window=window, softcap=softcap)
    assert torch.allclose(output, expected[0], atol=2e-5)
    assert torch.equal(keys.nan_to_num(99.0), expected[1].nan_to_num(99.0))
    assert torch.equal(values.nan_to_num(99.0), expected[2].nan_to_num(99.0))


@pytest.mark.parametrize("requests", [DECODES, MIXED], ids=["decodes", "mixed"])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(9, 3, 64), (32, 8, 128), (8, 1, 256)])
def test_in_bf16_they_are_as_close_as_bf16_is(heads, kv_heads, dim, requests):
    (output, *_), (expected, *_) = run_both(heads, kv_heads, dim, requests, torch.bfloat16)
    assert (output - expected).norm() < 0.01 * expected.norm()


def test_nan_in_one_requests_cache_stays_with_it():
    device = torch.device("cuda")
    shape = SimpleNamespace(num_layers=1, num_kv_heads=2, head_dim=32)
    cache = allocate_kv_tensors(shape, num_blocks=400, block_size=16, dtype=torch.float32, device=device)
    spans = [
        RequestSpan(0, 1, 1500, np.arange(100, dtype=np.int32), 16),
        RequestSpan(1, 1, 1500, np.arange(100, 200, dtype=np.int32), 16),
    ]
    cache.keys[0][700] = torch.nan
    states = torch.randn(2, 6, 32, device=device)
    attention = build_attention_metadata(spans, cache).attention
    output = attention.attend(
        states, states[:, :2], states[:, 2:4], cache.keys[0], cache.values[0], scale=0.2, window=None, softcap=None
    )
    assert output[0].isnan().all()
    assert output[1].isfinite().all()
