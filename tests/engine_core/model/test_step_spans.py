"""Columns and single spans say the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_core.model.request_span import RequestSpan
from engine_core.model.step_spans import StepSpans


def spans_of(lengths, block_size=16):
    """Spans of `(queries, computed tokens)` each, one after the other in the flat batch."""
    spans, query_start = [], 0
    for number, (num_queries, num_computed) in enumerate(lengths):
        num_blocks = -(-(num_queries + num_computed) // block_size)
        blocks = np.arange(num_blocks, dtype=np.int32) + number * 100
        spans.append(RequestSpan(query_start, num_queries, num_computed, blocks, block_size))
        query_start += num_queries
    return spans


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 90)), min_size=1, max_size=9))
def test_columns_give_back_the_spans_that_they_were_made_of(lengths):
    spans = spans_of(lengths)
    columns = StepSpans.of(spans)
    assert len(columns) == len(spans)
    for actual, expected in zip(columns, spans, strict=True):
        assert actual.query_start == expected.query_start
        assert (actual.num_queries, actual.num_tokens) == (expected.num_queries, expected.num_tokens)
        assert actual.slots.tolist() == expected.slots.tolist()
    positions = [range(span.num_computed_tokens, span.num_tokens) for span in spans]
    assert columns.positions.tolist() == [position for item in positions for position in item]


def test_a_part_of_the_spans():
    assert [span.query_start for span in StepSpans.of(spans_of([(1, 4), (3, 0), (2, 7)]))[1:]] == [1, 4]


@pytest.mark.parametrize(("lengths", "are_single"), [([(1, 5), (1, 0)], True), ([(1, 5), (2, 0)], False)])
def test_decodes_are_told_apart(lengths, are_single):
    assert StepSpans.of(spans_of(lengths)).are_single is are_single
