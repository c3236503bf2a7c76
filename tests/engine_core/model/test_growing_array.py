"""Amortized appends lose nothing."""

from hypothesis import given
from hypothesis import strategies as st

from engine_core.model.growing_array import GrowingArray


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=70), max_size=12))
def test_growing_array_keeps_all_values(parts):
    array = GrowingArray(parts[0] if parts else [])
    for part in parts[1:]:
        array.extend(part)
    assert array.values.tolist() == [value for part in parts for value in part]
