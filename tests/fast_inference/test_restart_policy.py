"""When a dead child is started again, and when not."""

from hypothesis import given
from hypothesis import strategies as st

from fast_inference.restart_policy import CoreRestartPolicy, FrontendRestartPolicy


def test_core_backoff_grows_to_30_seconds():
    policy = CoreRestartPolicy()
    delays = [policy.on_crash(50.0 * crash, served_s=9.0) for crash in range(9)]
    assert delays == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_core_backoff_begins_anew_once_a_core_has_served():
    policy = CoreRestartPolicy()
    assert [policy.on_crash(*crash) for crash in ((0.0, 5.0), (9.0, 5.0), (20.0, 10.0))] == [0.0, 0.5, 0.0]


@given(st.lists(st.floats(0.1, 200.0), min_size=1, max_size=40))
def test_it_is_a_loop_exactly_when_five_crashes_lie_within_a_minute(gaps):
    policy, now, crashes = CoreRestartPolicy(), 0.0, []
    for gap in gaps:
        now += gap
        crashes.append(now)
        is_crash_loop = len(crashes) >= 5 and crashes[-1] - crashes[-5] <= 60.0
        policy.on_crash(now, served_s=gap)
        assert policy.is_loop == is_crash_loop


def test_frontend_backoff_is_capped_and_begins_anew_after_service():
    policy = FrontendRestartPolicy()
    assert [policy.on_death(has_served=False) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
    assert policy.on_death(has_served=True) == 0.1
