"""What a step is allowed: never less than the minimum, and more the more it computes."""

import pytest

from engine_core.outputs import RequestKey, ScheduledRequest, SchedulerOutput
from engine_core.step_clock import FACTOR, UNKNOWN_FACTOR, StepClock


def plan_of(*items: tuple[int, int]) -> SchedulerOutput:
    """A step of (tokens already computed, tokens to compute) each."""
    scheduled = tuple(
        ScheduledRequest(RequestKey(key), num_computed, num_scheduled, (), True)
        for key, (num_computed, num_scheduled) in enumerate(items)
    )
    return SchedulerOutput(1, (), scheduled)


def run(clock: StepClock, plan: SchedulerOutput, seconds: float) -> None:
    clock.plan(plan)
    clock.observe(seconds)


@pytest.mark.parametrize("num_tokens", [1, 10, 2048])
def test_a_first_step_is_allowed_much_and_more_for_each_token(num_tokens: int):
    clock = StepClock(30)
    clock.plan(plan_of((0, num_tokens)))
    assert clock.allowance_s >= UNKNOWN_FACTOR * 30 + num_tokens


def test_a_first_step_that_may_have_ended_another_core_is_allowed_no_more_than_its_tokens():
    clock = StepClock(30)
    clock.suspect_first_step()
    clock.plan(plan_of((0, 10)))
    assert 40 <= clock.allowance_s < 41


def test_short_steps_leave_the_minimum():
    clock = StepClock(30)
    run(clock, plan_of((100, 1)), 0.01)
    clock.plan(plan_of((101, 1)))
    assert clock.allowance_s == 30


def test_a_long_prefill_is_allowed_in_proportion():
    clock = StepClock(1)
    run(clock, plan_of((0, 100)), 2.0)
    clock.plan(plan_of((0, 1000)))
    assert clock.allowance_s >= FACTOR * 20


@pytest.mark.parametrize("num_computed", [10_000, 100_000])
def test_a_long_context_is_allowed_more(num_computed: int):
    clock = StepClock(1)
    run(clock, plan_of((0, 512)), 1.0)
    clock.plan(plan_of((num_computed, 512)))
    assert clock.allowance_s >= FACTOR * num_computed / 2048


def test_a_step_of_the_same_size_is_judged_by_its_like():
    """A decode of a large model takes 1 s for one token, and its prefill of 512 no more than 4 s."""
    clock = StepClock(1)
    run(clock, plan_of((10, 1)), 1.0)
    run(clock, plan_of((0, 512)), 4.0)
    clock.plan(plan_of((0, 512)))
    assert clock.allowance_s == pytest.approx(FACTOR * 4)


def test_a_smaller_step_than_any_so_far_is_allowed_what_those_took():
    clock = StepClock(1)
    run(clock, plan_of((0, 512)), 4.0)
    clock.plan(plan_of((10, 1)))
    assert clock.allowance_s >= FACTOR * 2


def test_the_slowest_of_the_latest_steps_counts():
    clock = StepClock(1)
    for seconds in (0.5, 3.0, 0.5):
        run(clock, plan_of((0, 512)), seconds)
    clock.plan(plan_of((0, 512)))
    assert clock.allowance_s == pytest.approx(FACTOR * 3)
    for _ in range(64):
        run(clock, plan_of((0, 512)), 0.5)
    clock.plan(plan_of((0, 512)))
    assert clock.allowance_s == pytest.approx(FACTOR * 0.5)


def test_each_part_of_a_step_counts_for_itself():
    clock = StepClock(30)
    clock.begin()
    assert clock.started_at is not None
    clock.started_at -= 25
    clock.plan(plan_of((0, 10)))
    assert clock.age_s == pytest.approx(0, abs=0.5)


def test_the_age_of_a_step_is_only_the_time_in_which_the_process_ran():
    clock = StepClock(30)
    clock.begin()
    assert clock.started_at is not None
    clock.started_at -= 13
    clock.forgive(12)
    assert clock.age_s == pytest.approx(1, abs=0.5)
    clock.end()
    assert clock.age_s == 0
    clock.begin()
    assert clock.started_at is not None
    clock.started_at -= 5
    assert clock.age_s == pytest.approx(5, abs=0.5)
