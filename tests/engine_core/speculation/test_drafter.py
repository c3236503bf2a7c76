"""Drafts go on where they are right, and cost next to nothing where they are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_core.speculation.drafter import INCOME, START_CREDIT, Drafter

REPEATING = [1, 2, 3, 4] * 4


def loss(row_cost, num_steps, *, num_accepted=0, max_tokens=5):
    """Steps' worth of time that drafts took, without what was accepted, in a text that always gives a draft."""
    token_ids = list(REPEATING)
    drafter = Drafter(len(token_ids))
    lost = 0.0
    for _ in range(num_steps):
        draft = drafter.propose(token_ids, max_tokens, row_cost)
        if draft:
            right = min(num_accepted, len(draft))
            drafter.observe(right, row_cost * len(draft))
            token_ids += draft[:right]
            lost += row_cost * len(draft) - right
        token_ids.append(token_ids[-4])
    return lost


@given(st.floats(0.001, 3.0), st.integers(1, 400), st.integers(1, 16))
def test_drafts_that_fail_cost_no_more_than_the_bound(row_cost, num_steps, max_tokens):
    assert loss(row_cost, num_steps, max_tokens=max_tokens) <= START_CREDIT + INCOME * num_steps + 1e-6


def test_drafts_that_fail_are_tried_again():
    assert loss(0.05, 1000) > INCOME * 1000 / 2


def test_drafts_that_are_right_are_made_in_each_step():
    assert loss(0.05, 100, num_accepted=5) == pytest.approx(100 * (5 * 0.05 - 5))


def test_drafts_that_pay_just_so_are_made_in_each_step():
    assert loss(0.05, 100, num_accepted=1) == pytest.approx(100 * (5 * 0.05 - 1))


def test_a_draft_is_no_longer_than_its_credit_pays_for():
    assert len(Drafter(len(REPEATING)).propose(REPEATING, 9, START_CREDIT / 2)) == 2


def test_there_is_no_draft_while_the_credit_is_used_up():
    drafter = Drafter(len(REPEATING))
    drafter.observe(0, START_CREDIT + 1)
    assert drafter.propose(REPEATING, 5, 0.0) == []


def test_a_long_gain_does_not_pay_for_long_losses():
    drafter = Drafter(len(REPEATING))
    for _ in range(1000):
        drafter.observe(5, 0.1)
    drafter.observe(0, 3.0)
    assert drafter.propose(REPEATING, 5, 0.1) == []
