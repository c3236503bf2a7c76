"""The map behaves like a dictionary, also when it has grown."""

from hypothesis import given
from hypothesis import strategies as st

from frontend.batch.digest_map import DigestMap


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(1, 255))))
def test_it_is_a_dictionary(items: list[tuple[str, int]]):
    found = DigestMap()
    for text, value in items:
        found.set(text, value)
    expected = dict(items)
    assert len(found) == len(expected)
    assert {text: found.get(text) for text in expected} == expected


def test_it_grows():
    found = DigestMap("Q")
    for number in range(5000):
        found.set(f"id-{number}", 2**40 + number)
    assert all(found.get(f"id-{number}") == 2**40 + number for number in range(5000))
    assert found.get("another") == 0
