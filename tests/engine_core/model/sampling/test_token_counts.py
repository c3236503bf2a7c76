"""Counts kept token by token equal counts from scratch."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine_core.model.sampling.token_counts import TokenCounts

tokens = st.lists(st.integers(0, 30), max_size=80)


def as_array(values):
    return np.array(values, dtype=np.int32)


@given(seen=tokens, output=tokens, more=tokens)
def test_counts_equal_those_from_scratch(seen, output, more):
    counts = TokenCounts(as_array(seen), as_array(output))
    for token_id in more:
        counts.add(token_id)
    expected = Counter(dict.fromkeys(seen, 0))
    expected.update(output + more)
    assert dict(zip(counts.token_ids.tolist(), counts.counts.tolist(), strict=True)) == expected


@given(seen=tokens, output=tokens)
def test_restored_counts_equal_those_that_were_kept(seen, output):
    kept = TokenCounts(as_array(seen), as_array([]))
    for token_id in output:
        kept.add(token_id)
    restored = TokenCounts(as_array(seen), as_array(output))
    assert sorted(zip(kept.token_ids, kept.counts, strict=True)) == list(
        zip(restored.token_ids, restored.counts, strict=True)
    )
