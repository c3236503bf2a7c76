"""How a step is laid out for the kernels; no GPU is needed for that."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine_core.model.cuda.step_arrays import SEGMENT_CHOICES, StepArrays, Tiles, Tiling
from engine_core.model.request_span import RequestSpan
from engine_core.model.step_spans import StepSpans

CPU = torch.device("cpu")
BLOCK_SIZE = 16


def spans_of(*requests):
    """Spans for (computed tokens, queries), with blocks in a scattered order and one block too many."""
    spans, start = [], 0
    for number, (num_computed, num_queries) in enumerate(requests):
        num_blocks = -(-(num_computed + num_queries) // BLOCK_SIZE) + 1
        block_ids = np.array([(number * 31 + block * 7) % 101 for block in range(num_blocks)], dtype=np.int32)
        spans.append(RequestSpan(start, num_queries, num_computed, block_ids, BLOCK_SIZE))
        start += num_queries
    return StepSpans.of(spans)


def test_slots_are_those_of_the_steps_own_tokens():
    spans = spans_of((0, 20), (33, 1), (15, 3))
    arrays = StepArrays.of(spans, CPU)
    expected = np.concatenate([span.slots[span.num_computed_tokens :] for span in spans])
    assert arrays.slots.tolist() == expected.tolist()
    assert arrays.query_starts.tolist() == [0, 20, 21, 24]
    assert arrays.num_tokens.tolist() == [20, 34, 18]


def test_block_tables_hold_the_blocks_of_all_tokens():
    spans = spans_of((0, 20), (33, 1))
    tables = StepArrays.of(spans, CPU).block_tables
    assert tables.shape == (2, 3)
    assert tables[0, :2].tolist() == spans[0].block_ids.tolist()
    assert tables[1].tolist() == spans[1].block_ids.tolist()


def test_every_array_begins_at_a_multiple_of_16_bytes():
    arrays = StepArrays.of(spans_of((0, 5), (33, 1), (7, 2)), CPU)
    parts = (arrays.slots, arrays.query_starts, arrays.num_tokens, arrays.block_tables)
    assert [part.storage_offset() % 4 for part in parts] == [0, 0, 0, 0]


@given(
    requests=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 400)), min_size=1, max_size=8),
    group=st.integers(1, 40),
)
def test_tiles_cover_every_query_once(requests, group):
    tiling = Tiling(2, group, 128)
    spans = spans_of(*requests)
    tiles = Tiles.of(spans, tiling, CPU)
    covered = []
    for table, size in ((tiles.short, tiling.short_queries), (tiles.long, tiling.long_queries)):
        for request, first in table.tolist():
            last = min(first + size, spans[request].num_queries)
            covered += [(request, query) for query in range(first, last)]
    assert sorted(covered) == [(index, query) for index, span in enumerate(spans) for query in range(span.num_queries)]
    assert all(spans[request].num_queries <= tiling.short_queries for request, _ in tiles.short.tolist())


def test_tiles_that_see_most_come_first():
    tiles = Tiles.of(spans_of((0, 40), (0, 100)), Tiling(2, 4, 128), CPU)
    firsts = tiles.long[:, 1].tolist()
    assert firsts == sorted(firsts, reverse=True)


@pytest.mark.parametrize("head_bytes", [64, 256, 1024])
@pytest.mark.parametrize("group", [1, 3, 4, 8, 16, 17, 71])
def test_rows_of_a_tile_are_a_power_of_two_and_hold_whole_queries(group, head_bytes):
    tiling = Tiling(1, group, head_bytes)
    for rows, queries in (
        (tiling.short_rows, tiling.short_queries),
        (tiling.long_rows, tiling.long_queries),
    ):
        assert rows & (rows - 1) == 0
        assert queries >= 1
        assert queries * group <= rows


@pytest.mark.parametrize(
    ("num_tiles", "num_tokens", "segments"), [(1, 8192, 16), (1, 200, 1), (1, 600, 4), (32, 8192, 4), (256, 8192, 1)]
)
def test_keys_are_divided_where_few_requests_have_many(num_tiles, num_tokens, segments):
    assert segments in SEGMENT_CHOICES
    assert Tiling(3, 3, 128).num_segments(num_tiles, num_tokens) == segments
