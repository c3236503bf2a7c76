"""Depth, against counting by hand."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from frontend.json_depth import MAX_JSON_DEPTH, is_too_deep

values = st.recursive(
    st.text('[]{}"\\a', max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[{"\\', max_size=2), inner, max_size=3),
)


def depth_of(value: object) -> int:
    children = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max(map(depth_of, children), default=0)


@settings(max_examples=200)
@given(values, st.integers(MAX_JSON_DEPTH - 8, MAX_JSON_DEPTH), st.sampled_from(["[%s]", '{"]": %s}', '[[], %s, "["]']))
def test_it_is_the_depth_that_counts(value: object, num_around: int, around: str):
    text = json.dumps(value)
    for _ in range(num_around):
        text = around % text
    text = text.replace('"]"', '"\\"]"')
    assert is_too_deep(text.encode()) == (depth_of(json.loads(text)) > MAX_JSON_DEPTH)


def test_many_shallow_things_are_not_deep():
    assert not is_too_deep(json.dumps([{"a": [[]]}] * 10_000).encode())


def test_brackets_in_strings_are_none():
    assert not is_too_deep(json.dumps(["[" * 1000 + '"' + "]" * 1000]).encode())
