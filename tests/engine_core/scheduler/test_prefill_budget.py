import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_core.scheduler.prefill_budget import (
    BESIDE_ONLINE_TARGET_S,
    MAX_TARGET_S,
    MIN_DECODES_BESIDE_ONLINE,
    MIN_TOKENS,
    SLOWDOWN,
    UNDISTURBED_TARGET_S,
    PrefillBudget,
)

DECODE_S, TOKEN_S = 0.02, 0.0001


def make_budget(max_tokens=2048, target_s=None):
    """A machine on which a decode step takes 20 ms and a prompt token adds 0.1 ms."""
    budget = PrefillBudget(max_tokens, target_s)
    for _ in range(3):
        budget.observe(DECODE_S, 0, 8)
    budget.observe(500 * TOKEN_S, 500, 0)
    return budget


def test_before_anything_was_seen_it_is_the_whole_step():
    assert PrefillBudget(2048, None).num_tokens(1) == 2048


def test_prompts_may_slow_a_step_by_a_factor():
    assert make_budget().num_tokens(8) == pytest.approx(SLOWDOWN * DECODE_S / TOKEN_S, abs=2)


def test_where_many_have_prompts_these_get_more():
    assert make_budget().num_tokens(8, 2) == make_budget().num_tokens(8)
    assert make_budget().num_tokens(8, 4) == pytest.approx(3 * make_budget().num_tokens(8), abs=6)
    assert make_budget(100_000).num_tokens(8, 1000) == pytest.approx((MAX_TARGET_S - DECODE_S) / TOKEN_S, abs=2)


def test_beside_online_as_many_decodes_of_batch_are_computed_as_end_soon():
    budget = make_budget()
    assert budget.num_decodes_beside_online(8) == 8
    for _ in range(3):
        budget.observe(2 * BESIDE_ONLINE_TARGET_S, 0, 200)
    assert budget.num_decodes_beside_online(200) == 100


def test_beside_online_some_decodes_of_batch_are_computed_however_slow_they_are():
    budget = make_budget()
    for _ in range(3):
        budget.observe(100 * BESIDE_ONLINE_TARGET_S, 0, 200)
    assert budget.num_decodes_beside_online(200) == MIN_DECODES_BESIDE_ONLINE
    assert budget.num_decodes_beside_online(9) == 9


def test_beside_online_prompts_of_batch_have_what_the_decodes_leave():
    budget = make_budget()
    assert budget.num_tokens_beside_online(8) == pytest.approx((BESIDE_ONLINE_TARGET_S - DECODE_S) / TOKEN_S, abs=2)
    for _ in range(3):
        budget.observe(2 * BESIDE_ONLINE_TARGET_S, 0, 200)
    assert budget.num_tokens_beside_online(200) == MIN_TOKENS


def test_a_target_in_seconds_takes_the_place_of_the_factor():
    assert make_budget(target_s=0.03).num_tokens(8) == pytest.approx(100, abs=2)


def test_without_decodes_a_step_has_a_time_of_its_own():
    assert make_budget().num_tokens(0) == pytest.approx(UNDISTURBED_TARGET_S / TOKEN_S, rel=0.01)


def test_where_decodes_are_slow_a_step_without_them_is_longer():
    budget = PrefillBudget(100_000, None)
    for _ in range(3):
        budget.observe(0.2, 0, 1)
        budget.observe(100 * TOKEN_S, 100, 0)
    assert budget.num_tokens(0) == pytest.approx(0.8 / TOKEN_S, rel=0.01)


def test_prompts_get_on_even_where_decodes_take_longer_than_the_target():
    assert make_budget(target_s=0.001).num_tokens(8) == MIN_TOKENS


def test_one_step_that_hung_does_not_take_all():
    budget = make_budget()
    before = budget.num_tokens(8)
    budget.observe(1000.0, 100, 8)
    assert budget.num_tokens(8) > before / 2


def test_it_learns_that_tokens_became_dearer():
    budget = make_budget()
    for _ in range(20):
        budget.observe(DECODE_S + 100 * 4 * TOKEN_S, 100, 8)
    assert budget.num_tokens(8) == pytest.approx(SLOWDOWN * DECODE_S / TOKEN_S / 4, rel=0.05)


def test_decodes_that_became_faster_do_not_make_tokens_look_free():
    budget = make_budget()
    for _ in range(20):
        budget.observe(DECODE_S / 2 + 20 * TOKEN_S, 20, 8)  # in all less than decodes took alone
    assert budget.num_tokens(8) < 2 * SLOWDOWN * DECODE_S / TOKEN_S


def test_a_target_in_seconds_is_for_steps_with_decodes():
    assert make_budget(target_s=0.03).num_tokens(0) == make_budget().num_tokens(0)


def test_a_decode_step_that_hung_at_first_does_not_lift_the_limit():
    budget = PrefillBudget(2048, None)
    budget.observe(DECODE_S, 0, 8)
    budget.observe(20 * DECODE_S, 0, 8)
    for _ in range(10):
        budget.observe(DECODE_S + 32 * TOKEN_S, 32, 8)
    assert budget.num_tokens(8) < 2 * SLOWDOWN * DECODE_S / TOKEN_S


@given(
    st.integers(16, 4096),
    st.lists(st.tuples(st.floats(0, 1e3), st.integers(0, 4096), st.integers(0, 64))),
    st.integers(0, 64),
)
def test_it_stays_within_its_limits(max_tokens, steps, num_decodes):
    budget = PrefillBudget(max_tokens, None)
    for seconds, num_tokens, num_observed in steps:
        if num_tokens or num_observed:
            budget.observe(seconds, num_tokens, num_observed)
        assert min(MIN_TOKENS, max_tokens) <= budget.num_tokens(num_decodes) <= max_tokens
