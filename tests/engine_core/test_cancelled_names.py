"""Which requests a cancellation still reaches after it was made."""

import pytest

from engine_core.cancelled_names import CancelledNames
from tests.factories import make_request


def named(came_at_us=5, names=("x", "y"), flow="mine"):
    return make_request(flow=flow, external_ids=names, came_at_us=came_at_us)


@pytest.mark.parametrize(
    ("request_", "is_covered"),
    [
        (named(), True),
        (named(came_at_us=10), True),
        (named(came_at_us=11), False),
        (named(came_at_us=0), False),
        (named(names=("z", "y")), False),
        (named(names=()), False),
        (named(flow="theirs"), False),
    ],
)
def test_what_came_before_and_has_the_name_and_the_flow_is_covered(request_, is_covered):
    cancelled = CancelledNames()
    assert not cancelled.covers(request_)
    cancelled.add("x", "mine", now_us=10)
    assert cancelled.covers(request_) is is_covered


def test_a_cancellation_for_all_flows_covers_each():
    cancelled = CancelledNames()
    cancelled.add("y", None, now_us=10)
    assert cancelled.covers(named(flow="mine"))
    assert cancelled.covers(named(flow=""))


def test_the_latest_cancellation_of_a_name_counts():
    cancelled = CancelledNames()
    cancelled.add("x", None, now_us=10)
    cancelled.add("x", None, now_us=20)
    assert cancelled.covers(named(came_at_us=15))


def test_the_oldest_names_are_forgotten():
    cancelled = CancelledNames(max_names=2)
    for name in ("x", "a", "x", "b"):
        cancelled.add(name, None, now_us=10)
    assert cancelled.covers(named(names=("x",)))
    assert cancelled.covers(named(names=("b",)))
    assert not cancelled.covers(named(names=("a",)))
