"""The index finds what a search of the whole sequence finds."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_core.speculation.ngram_index import MAX_NGRAM, MIN_NGRAM, NgramIndex


def search(token_ids, max_tokens):
    """Naive prompt lookup: the longest n-gram at the end that stood there before, the latest such place."""
    for size in range(MAX_NGRAM, MIN_NGRAM - 1, -1):
        for start in range(len(token_ids) - size - 1, -1, -1):
            if token_ids[start : start + size] == token_ids[len(token_ids) - size :]:
                sequence = list(token_ids)
                for position in range(start + size, start + size + max_tokens):
                    sequence.append(sequence[position])
                return sequence[len(token_ids) :]
    return []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 9), st.sets(st.integers(1, 60)))
def test_a_draft_is_what_a_naive_search_finds(token_ids, max_tokens, moments):
    index = NgramIndex()
    for length in sorted(moments | {len(token_ids)}):
        known = array("i", token_ids[:length])
        assert index.draft(known, max_tokens) == search(list(known), max_tokens)


def test_a_period_goes_on():
    assert NgramIndex().draft([9, 1, 2, 3, 1, 2, 3, 1, 2], 7) == [3, 1, 2, 3, 1, 2, 3]


def test_the_longest_match_wins_over_a_later_one():
    token_ids = [1, 2, 3, 4, 50, 3, 4, 60, 1, 2, 3, 4]
    assert NgramIndex().draft(token_ids, 1) == [50]


@pytest.mark.parametrize("token_ids", [[], [1], [1, 2], [1, 2, 3, 4, 5]])
def test_there_is_no_draft_where_nothing_is_repeated(token_ids):
    assert NgramIndex().draft(token_ids, 5) == []


def test_token_0_is_not_taken_for_a_missing_one():
    assert NgramIndex().draft([5, 7, 8, 0, 0, 5], 1) == []


def test_the_largest_token_ids_are_told_apart():
    large = 2**31 - 2
    assert NgramIndex().draft([large, large, 4, large, large], 1) == [4]
    assert NgramIndex().draft([large, large, 4, large, large - 1], 1) == []
