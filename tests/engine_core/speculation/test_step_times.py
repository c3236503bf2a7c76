import pytest

from engine_core.speculation.step_times import UNKNOWN_ROW_COST, StepTimes


def times_of(**seconds):
    """Estimates from steps that all took as long: `rows6=0.02`."""
    times = StepTimes()
    for name, value in seconds.items():
        for _ in range(3):
            times.observe(int(name.removeprefix("rows")), value)
    return times


def test_growth_is_the_relative_difference():
    assert times_of(rows1=0.010, rows6=0.013).growth(1, 5) == pytest.approx(0.3)


def test_more_rows_never_make_a_step_shorter():
    assert times_of(rows1=0.010, rows6=0.009).growth(1, 5) == 0


def test_what_was_never_measured_is_assumed():
    assert StepTimes().growth(1, 4) == 4 * UNKNOWN_ROW_COST
    assert times_of(rows6=0.02).growth(1, 5) == 5 * UNKNOWN_ROW_COST


def test_between_measured_sizes_the_nearest_tells_the_cost_of_a_row():
    assert times_of(rows1=0.010, rows6=0.015).growth(1, 4) == pytest.approx(0.4)


def test_the_first_step_of_a_size_does_not_count():
    times = StepTimes()
    for seconds in (9.0, 0.010, 0.010):
        times.observe(1, seconds)
    for seconds in (9.0, 0.011):
        times.observe(2, seconds)
    assert times.growth(1, 1) == pytest.approx(0.1)


def test_one_step_that_hung_moves_the_estimate_little():
    times = times_of(rows1=0.010, rows2=0.010)
    for _ in range(20):
        times.observe(2, 0.010)
    times.observe(2, 60.0)
    assert times.growth(1, 1) < 0.06


def test_estimates_follow_what_steps_take():
    times = times_of(rows1=0.010, rows2=0.010)
    for _ in range(80):
        times.observe(2, 0.020)
    assert times.growth(1, 1) == pytest.approx(1.0, abs=0.01)


def test_seconds_lie_between_the_nearest_sizes():
    times = times_of(rows1=0.010, rows5=0.018)
    assert times.seconds(1) == pytest.approx(0.010)
    assert times.seconds(3) == pytest.approx(0.014)


def test_seconds_of_larger_steps_go_on_in_a_line():
    assert times_of(rows1=0.010, rows5=0.018).seconds(11) == pytest.approx(0.030)
    assert times_of(rows5=0.018).seconds(11) == pytest.approx(0.018)


def test_nothing_is_known_of_seconds_before_any_step():
    assert StepTimes().seconds(4) is None
    assert times_of(rows1=0.010).seconds(0) is None
