"""When a core hangs; times are arguments."""

from fast_inference.hang_watch import LOADING_FACTOR, HangWatch


def test_a_core_that_beats_does_not_hang():
    watch = HangWatch(30, now=0)
    assert [watch.why_hung(0.4, is_loading=False, now=now) for now in range(1, 100)] == [""] * 99


def silent_until_hung(watch: HangWatch, *, is_loading: bool) -> int:
    """Seconds after which a core that was never heard is said to hang."""
    return next(now for now in range(1, 1000) if watch.why_hung(1e9, is_loading=is_loading, now=now))


def test_a_silent_core_hangs():
    assert silent_until_hung(HangWatch(30, now=0), is_loading=False) == 31


def test_a_core_that_loads_may_be_silent_for_longer():
    assert silent_until_hung(HangWatch(30, now=0), is_loading=True) == 30 * LOADING_FACTOR + 1


def test_what_the_launcher_slept_is_no_silence():
    watch = HangWatch(30, now=0)
    watch.why_hung(0, is_loading=False, now=1)
    assert watch.why_hung(60, is_loading=False, now=61) == ""


def test_a_step_over_its_allowance_hangs():
    watch = HangWatch(30, now=0)
    assert "step" in watch.why_hung(0, is_loading=False, step_age_s=31, step_allowance_s=30, now=1)


def test_a_step_may_take_what_it_is_allowed():
    watch = HangWatch(30, now=0)
    assert watch.why_hung(0, is_loading=False, step_age_s=300, step_allowance_s=400, now=1) == ""


def test_no_step_hangs_before_the_timeout_or_without_a_known_allowance():
    watch = HangWatch(30, now=0)
    assert watch.why_hung(0, is_loading=False, step_age_s=29, step_allowance_s=10, now=1) == ""
    assert watch.why_hung(0, is_loading=False, step_age_s=999, step_allowance_s=0, now=1) == ""


def test_the_step_of_an_earlier_core_is_not_held_against_one_that_loads():
    watch = HangWatch(30, now=0)
    assert watch.why_hung(0, is_loading=True, step_age_s=99, step_allowance_s=30, now=1) == ""
