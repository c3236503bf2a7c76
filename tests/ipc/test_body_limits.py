import contextlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc.body_limits import MAX_BODY_BYTES, MAX_DEPTH, MAX_ITEMS_IN_ALL, check_body
from ipc.errors import ProtocolError

LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=60)


def depth_of(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list) and value:
        return 1 + max(map(depth_of, value))
    return 0


@given(VALUES)
def test_what_is_flat_enough_passes_and_what_is_not_is_refused(value):
    body = msgpack.packb(value)
    if depth_of(value) <= MAX_DEPTH:
        check_body(body)
    else:
        with pytest.raises(ProtocolError, match="deep"):
            check_body(body)


def test_the_depth_is_counted_behind_what_has_ended():
    nested = 1
    for _ in range(MAX_DEPTH - 2):
        nested = [nested, {"a": [], "b": {}}]
    check_body(msgpack.packb([nested] * 50))


@pytest.mark.parametrize(
    "body",
    [
        b"\x91" * 1000,
        b"\x81\xa1x" * 1000,
        b"\xdc\xff\xff" * 50,
        b"\xdd\xff\xff\xff\xff" + b"\x90" * 50,
        b"\xdf\xff\xff\xff\xff" + b"\x90" * 50,
        b"\x9a" + b"\xd4\x01x" * 10 + b"\x90" * 10,
        msgpack.packb([[1] * 2**15] * (MAX_ITEMS_IN_ALL // 2**15) + [[]] * 20),
        bytes(MAX_BODY_BYTES + 1),
    ],
    ids=["lists", "maps", "large lists", "a huge list", "a huge map", "an extension", "many items", "many bytes"],
)
def test_a_bomb_is_refused(body):
    with pytest.raises(ProtocolError):
        check_body(body)


def test_what_is_behind_the_value_is_not_looked_at():
    check_body(msgpack.packb([1, [2]]) + b"\xdd\xff\xff\xff\xff" * 20)


@given(st.binary(max_size=400))
def test_random_bytes_raise_nothing_else(body):
    with contextlib.suppress(ProtocolError):
        check_body(body)
