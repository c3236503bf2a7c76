import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_core.scheduler.virtual_counters import Share, VirtualCounters


def test_who_begins_to_wait_starts_level_with_the_least_served_who_waits():
    waiting = [Share(counter=50, num_waiting=1), Share(counter=80, num_waiting=1)]
    content, late = Share(counter=10, num_running=1), Share(num_waiting=1)
    VirtualCounters().lift(late, [*waiting, content, late])
    assert late.counter == 50


def test_who_had_more_than_the_others_keeps_its_debt():
    greedy = Share(counter=90)
    VirtualCounters().lift(greedy, [Share(counter=50, num_waiting=1), greedy])
    assert greedy.counter == 90


def test_where_nobody_waits_nobody_is_owed_anything():
    counters, busy, late = VirtualCounters(), Share(num_running=1), Share()
    counters.charge(busy, 70)
    counters.lift(late, [busy, late])
    assert late.counter == 70


@pytest.mark.parametrize(("taker", "giver", "may_take"), [(0, 2, True), (0, 1, False), (1, 3, True), (1, 2, False)])
def test_a_seat_is_given_up_only_by_one_that_still_has_as_many(taker, giver, may_take):
    assert Share(num_running=taker).can_take_seat_from(Share(num_running=giver)) is may_take


def test_a_seat_for_which_several_are_taken_leaves_the_giver_as_many():
    assert Share(num_running=1).can_take_seat_from(Share(num_running=4), num_taken=2)
    assert not Share(num_running=1).can_take_seat_from(Share(num_running=4), num_taken=3)


@given(st.integers(0, 70), st.integers(0, 70))
def test_seats_never_go_round(num_first, num_second):
    first, second = Share(num_running=num_first), Share(num_running=num_second)
    for _ in range(num_first + num_second):
        if not first.can_take_seat_from(second):
            break
        first.num_running += 1
        second.num_running -= 1
        assert not second.can_take_seat_from(first)
    assert not first.can_take_seat_from(second)
