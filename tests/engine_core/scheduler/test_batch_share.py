import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_core.scheduler.batch_share import MAX_DEBT, SLACK_PER_SEAT, BatchShare

SLACK = 10 * SLACK_PER_SEAT


def make_share(debt=0.0):
    """Ten seats, of which batch keeps two."""
    share = BatchShare(0.2, 10)
    share._debt = debt * SLACK
    return share


@pytest.mark.parametrize(
    ("debt", "num_owed", "num_kept"),
    [(-1, 0, 0), (-0.5, 0, 1), (0, 0, 2), (0.01, 1, 3), (0.25, 2, 4), (0.5, 4, 6), (3, 4, 6)],
)
def test_seats_grow_with_the_debt(debt, num_owed, num_kept):
    share = make_share(debt)
    assert (share.num_owed_seats, share.num_kept_seats) == (num_owed, num_kept)
    assert share.is_owed is (debt > 0)


def test_a_job_that_had_the_core_to_itself_keeps_no_seat():
    share = make_share()
    share.charge_batch(10 * SLACK)
    assert (share.num_owed_seats, share.num_kept_seats, share.is_owed) == (0, 0, False)


def test_with_its_share_of_the_costs_the_debt_does_not_change():
    share = make_share(0.5)
    for _ in range(100):
        share.charge_online(8)
        share.charge_batch(2)
    assert share._debt == pytest.approx(0.5 * SLACK)


def test_it_is_overdue_at_the_largest_debt():
    share = make_share()
    share.charge_online(5 * MAX_DEBT * SLACK - 5)
    assert not share.is_overdue
    share.charge_online(5)
    assert share.is_overdue


def test_forgiving_takes_the_debt_but_gives_nothing():
    owed, ahead = make_share(0.5), make_share(-0.5)
    owed.forgive()
    ahead.forgive()
    assert (owed._debt, ahead._debt) == (0, -0.5 * SLACK)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1e5))))
def test_the_debt_stays_within_its_limits(charges):
    share = make_share()
    for is_batch, cost in charges:
        share.charge_batch(cost) if is_batch else share.charge_online(cost)
        assert -SLACK <= share._debt <= MAX_DEBT * SLACK
        assert share.num_owed_seats <= share.num_kept_seats <= 6
