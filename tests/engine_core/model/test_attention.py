"""Paged attention against a dense float64 softmax, over random steps and windows."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_core.model.attention import UnsupportedAttentionError, build_attention_metadata, has_triton
from engine_core.model.kv_tensors import allocate_kv_tensors
from engine_core.model.request_span import RequestSpan
from engine_core.model.torch_attention import TorchAttention
from engine_core.model.transformers_attention import ATTENTION_NAME, paged_attention, register_attention

HEADS, KV_HEADS, DIM = 6, 2, 8
MODULE = SimpleNamespace(layer_idx=0, config=SimpleNamespace())


def make_cache(num_blocks: int = 64):
    model = SimpleNamespace(num_layers=1, num_kv_heads=KV_HEADS, head_dim=DIM)
    cpu = torch.device("cpu")
    return allocate_kv_tensors(model, num_blocks=num_blocks, block_size=16, dtype=torch.float32, device=cpu)


def dense_attention(query, keys, values, first_position, window):
    """`[queries, heads, dim]` at positions from `first_position` against all keys, in float64."""
    rows = []
    for index, vectors in enumerate(query.double()):
        position = first_position + index
        start = 0 if window is None else max(0, position + 1 - window)
        for head, vector in enumerate(vectors):
            kv_head = head // (HEADS // KV_HEADS)
            visible = slice(start, position + 1)
            weights = (keys[visible, kv_head].double() @ vector * 0.3).softmax(dim=0)
            rows.append(weights @ values[visible, kv_head].double())
    return torch.stack(rows).view(len(query), HEADS, DIM)


requests = st.lists(st.tuples(st.integers(0, 60), st.sampled_from([1, 1, 1, 2, 17])), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(requests=requests, window=st.sampled_from([None, 1, 5, 40]), seed=st.integers(0, 100))
def test_any_step_equals_dense_attention(requests, window, seed):
    torch.manual_seed(seed)
    cache = make_cache()
    cache.keys[0].fill_(torch.nan)  # whatever is read without having been written shows
    cache.values[0].fill_(torch.nan)
    free = np.random.default_rng(seed).permutation(cache.num_slots)
    spans, all_keys, all_values, start, used = [], [], [], 0, 0
    for context, num_queries in requests:
        slots = free[used : used + context + num_queries].astype(np.int64)
        used += len(slots)
        all_keys.append(torch.randn(len(slots), KV_HEADS, DIM))
        all_values.append(torch.randn(len(slots), KV_HEADS, DIM))
        cache.keys[0][slots[:context]] = all_keys[-1][:context]
        cache.values[0][slots[:context]] = all_values[-1][:context]
        spans.append(RequestSpan(start, num_queries, context, slots, 1))
        start += num_queries
    query = torch.randn(1, HEADS, start, DIM)
    step_keys = torch.cat([keys[span.num_computed_tokens :] for keys, span in zip(all_keys, spans, strict=True)])
    step_values = torch.cat([item[span.num_computed_tokens :] for item, span in zip(all_values, spans, strict=True)])
    output, _ = paged_attention(
        MODULE,
        query,
        step_keys.transpose(0, 1)[None],
        step_values.transpose(0, 1)[None],
        None,
        scaling=0.3,
        sliding_window=window,
        attention_metadata=build_attention_metadata(spans, cache),
        kv_tensors=cache,
    )
    for span, keys, values in zip(spans, all_keys, all_values, strict=True):
        rows = slice(span.query_start, span.query_start + span.num_queries)
        expected = dense_attention(query[0, :, rows].transpose(0, 1), keys, values, span.num_computed_tokens, window)
        assert torch.allclose(output[0, rows].double(), expected, atol=1e-5)


def test_on_a_cpu_attention_is_plain_torch():
    assert not has_triton(torch.device("cpu"))
    metadata = build_attention_metadata([RequestSpan(0, 1, 0, np.array([3]), 1)], make_cache(2))
    assert isinstance(metadata.attention, TorchAttention)


def test_decodes_are_grouped_so_that_padding_at_most_doubles_the_work():
    lengths = [3, 4, 5, 50, 55, 200, 700]
    spans = [RequestSpan(i, 1, length - 1, np.arange(length), 1) for i, length in enumerate(lengths)]
    groups = build_attention_metadata(spans, make_cache()).attention.plan(None).decodes
    assert sum(group.rows.shape[0] for group in groups) == len(lengths)
    assert 1 < len(groups) < len(lengths)
    assert sum(group.read_slots.shape[0] for group in groups) <= 2 * sum(lengths)


def call(**keywords):
    cache = make_cache(2)
    arguments = {
        "attention_metadata": build_attention_metadata([RequestSpan(0, 1, 0, np.array([3]), 1)], cache),
        "kv_tensors": cache,
        "attention_mask": None,
    }
    query, key = torch.randn(1, HEADS, 1, DIM), torch.randn(1, KV_HEADS, 1, DIM)
    return paged_attention(keywords.pop("module", MODULE), query, key, key, **(arguments | keywords))


@pytest.mark.parametrize(
    "keywords",
    [
        {"s_aux": torch.zeros(HEADS)},
        {"position_bias": torch.zeros(1)},
        {"attention_mask": torch.zeros(1, 1, 1, 1)},
        {"is_causal": False},
        {"attention_metadata": None},
        {"kv_tensors": None},
    ],
)
def test_what_would_change_the_result_is_refused(keywords):
    with pytest.raises(UnsupportedAttentionError):
        call(**keywords)


def test_keywords_without_meaning_here_are_accepted():
    output, weights = call(softcap=None, position_ids=torch.zeros(1, 1), use_cache=False, is_causal=True)
    assert (output.shape, weights) == ((1, 1, HEADS, DIM), None)


def test_a_sliding_layer_without_a_window_is_refused():
    config = SimpleNamespace(layer_types=["sliding_attention"], sliding_window=None)
    with pytest.raises(UnsupportedAttentionError, match="window"):
        call(module=SimpleNamespace(layer_idx=0, config=config))


def test_registering_twice_keeps_the_function():
    from transformers import AttentionInterface

    register_attention()
    register_attention()
    assert AttentionInterface()[ATTENTION_NAME] is paged_attention
