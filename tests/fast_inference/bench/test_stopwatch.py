"""Calls are timed and do what they did."""

import time

import pytest

from fast_inference.bench.stopwatch import Stopwatch


class Sleeper:
    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return 2 * seconds

    def fail(self) -> None:
        raise ValueError("no bed")


def test_each_call_is_timed_and_its_result_given_back():
    stopwatch, sleeper = Stopwatch(), Sleeper()
    stopwatch.wrap(sleeper, "sleep", "nap")
    assert [sleeper.sleep(0.002), sleeper.sleep(seconds=0.001)] == [0.004, 0.002]
    first, second = stopwatch.seconds["nap"]
    assert first >= 0.002
    assert second >= 0.001


def test_a_call_that_fails_is_timed_too():
    stopwatch, sleeper = Stopwatch(), Sleeper()
    stopwatch.wrap(sleeper, "fail", "failure")
    with pytest.raises(ValueError, match="no bed"):
        sleeper.fail()
    assert len(stopwatch.seconds["failure"]) == 1


def test_cleared_times_are_gone_and_later_calls_count():
    stopwatch, sleeper = Stopwatch(), Sleeper()
    stopwatch.wrap(sleeper, "sleep", "nap")
    sleeper.sleep(0.0)
    stopwatch.clear()
    sleeper.sleep(0.0)
    assert len(stopwatch.seconds["nap"]) == 1
