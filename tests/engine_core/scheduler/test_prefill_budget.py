from hypothesis import given
from hypothesis import strategies as st

from engine_core.scheduler.prefill_budget import GROWTH_TOKENS, MIN_TOKENS, PrefillBudget


def make_budget(max_tokens=2048, target_s=0.25):
    return PrefillBudget(max_tokens, target_s)


def test_a_step_that_took_too_long_shrinks_it_by_as_much():
    budget = make_budget()
    budget.observe(0.5, 2048, was_cut=True)
    assert budget.num_tokens == 1024


def test_fast_steps_that_it_held_back_let_it_grow_up_to_the_limit():
    budget = make_budget()
    budget.observe(0.5, 2048, was_cut=True)
    budget.observe(0.1, 1024, was_cut=True)
    assert budget.num_tokens == 1024 + GROWTH_TOKENS
    for _ in range(100):
        budget.observe(0.1, budget.num_tokens, was_cut=True)
    assert budget.num_tokens == 2048


def test_a_fast_step_that_it_did_not_hold_back_says_nothing():
    budget = make_budget()
    budget.observe(0.5, 2048, was_cut=True)
    budget.observe(0.01, 100, was_cut=False)
    assert budget.num_tokens == 1024


def test_a_slow_step_with_few_prompt_tokens_shrinks_it_below_those():
    budget = make_budget()
    budget.observe(0.5, 200, was_cut=False)
    assert budget.num_tokens == 100


def test_one_step_that_hung_does_not_take_all():
    budget = make_budget()
    budget.observe(1000.0, 2048, was_cut=False)
    assert budget.num_tokens == 256


def test_it_settles_where_steps_take_the_target():
    budget = make_budget()
    for _ in range(60):
        budget.observe(0.05 + budget.num_tokens * 0.001, budget.num_tokens, was_cut=True)  # 200 tokens take the target
    assert 150 <= budget.num_tokens <= 200 + GROWTH_TOKENS


def test_it_grows_back_where_a_step_could_use_only_a_part_of_it():
    budget = make_budget()
    budget.observe(0.5, 2048, was_cut=True)
    budget.observe(0.1, 512, was_cut=True)
    assert budget.num_tokens == 1024 + GROWTH_TOKENS


@given(st.integers(16, 4096), st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1), st.booleans())))
def test_it_stays_within_its_limits(max_tokens, steps):
    budget = make_budget(max_tokens)
    for seconds, part, was_cut in steps:
        budget.observe(seconds, max(1, int(part * budget.num_tokens)), was_cut=was_cut)
        assert min(MIN_TOKENS, max_tokens) <= budget.num_tokens <= max_tokens
