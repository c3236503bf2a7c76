"""How long the running step takes, and how long it may: what beats say of the step loop.

Written by the step loop, read by the I/O thread at any moment. `ClockedRunner` stands before the model runner, so that
each part of a step which is done in parts after a failure counts for itself. The allowance grows with what a
step computes, from the slowest steps seen lately, so that a long legal prefill is never taken for a hang. It does not
end a step: the launcher does, and frontends stop sending requests.
Invariant: `allowance_s` is never below `min_allowance_s`.
"""

import time
from collections import deque

from engine_core.outputs import ModelInfo, ModelRunner, ModelRunnerOutput, SchedulerOutput

FACTOR = 10.0
"""A step may take so many times as long as the slowest of the steps lately says."""
UNKNOWN_FACTOR = 10.0
"""So many times the minimum for a step of which nothing is known: it may load or compile something."""
UNKNOWN_WORK = 30.0
"""And the minimum once more for so many tokens: one a second, by default, is slower than any model that is of use."""
NUM_REMEMBERED = 64
"""Steps of each size class that count as "lately"."""
CONTEXT = 1024
"""Attention over so many tokens is taken to cost as much as all else of a token; in most models it costs less."""


class StepClock:
    """One for each process."""

    def __init__(self, min_allowance_s: float) -> None:
        self._min_allowance_s = min_allowance_s
        self._unknown_factor = UNKNOWN_FACTOR
        self._slowest = _SlowestSteps()
        self._work = 0.0
        self.step = 0
        self.started_at: float | None = None
        """On the monotonic clock; None while no step runs."""
        self.allowance_s = min_allowance_s
        """Of the step that runs, or ran last."""
        self._slept_in_step = 0
        self._slept_s = 0.0
        """Seconds of the step `_slept_in_step` in which the process did not run."""

    @property
    def age_s(self) -> float:
        """How long the running step takes already, without what this process slept of it; 0 while none runs."""
        step, started_at = self.step, self.started_at
        if started_at is None:
            return 0.0
        slept_s = self._slept_s if step == self._slept_in_step else 0.0
        return max(0.0, time.monotonic() - started_at - slept_s)

    def forgive(self, seconds: float) -> None:
        """The process did not run for so long; called by the thread that asks for `age_s`."""
        if self.step != self._slept_in_step:
            self._slept_in_step, self._slept_s = self.step, 0.0
        self._slept_s += seconds

    def begin(self) -> None:
        """A step begins."""
        self.step, self.started_at = self.step + 1, time.monotonic()

    def end(self) -> None:
        """It has ended, one way or another."""
        self.started_at = None

    def plan(self, plan: SchedulerOutput) -> None:
        """This is what will be computed next; the age of the step counts from here."""
        if self.started_at is not None:
            self.started_at = time.monotonic()
        self._work = _work_of(plan)
        expected_s = self._slowest.expected_s(self._work)
        if expected_s is None:
            self.allowance_s = (self._unknown_factor + self._work / UNKNOWN_WORK) * self._min_allowance_s
        else:
            self.allowance_s = max(self._min_allowance_s, FACTOR * expected_s)

    def suspect_first_step(self) -> None:
        """Steps worked before this process, and what ended the last one may come first: it gets no more than others."""
        self._unknown_factor = 1.0

    def observe(self, seconds: float) -> None:
        """What was planned took so long."""
        self._slowest.observe(self._work, seconds)


class ClockedRunner:
    """A model runner whose work is measured."""

    def __init__(self, runner: ModelRunner, clock: StepClock) -> None:
        self._runner = runner
        self._clock = clock

    @property
    def info(self) -> ModelInfo:
        """Facts about the loaded model."""
        return self._runner.info

    def execute(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Run one step, or a part of one; raises whatever the runner raises."""
        self._clock.plan(step)
        started_at = time.monotonic()
        output = self._runner.execute(step)
        self._clock.observe(time.monotonic() - started_at)
        return output


class _SlowestSteps:
    """Seconds per unit of work, by size class: a small step reads all weights too, and says little of a large one."""

    def __init__(self) -> None:
        self._unit_times: dict[int, deque[float]] = {}

    def observe(self, work: float, seconds: float) -> None:
        times = self._unit_times.setdefault(_size_class(work), deque(maxlen=NUM_REMEMBERED))
        times.append(seconds / max(1.0, work))

    def expected_s(self, work: float) -> float | None:
        """By the nearest class that is not larger, else by the smallest one; None before the first step."""
        if not self._unit_times:
            return None
        known = [size for size in self._unit_times if size <= _size_class(work)]
        nearest = max(known) if known else min(self._unit_times)
        return max(self._unit_times[nearest]) * max(work, 1.0 if known else 2.0**nearest)


def _size_class(work: float) -> int:
    return int(work).bit_length()


def _work_of(plan: SchedulerOutput) -> float:
    """Tokens that are computed, each weighted with the length of the context that it attends to."""
    return sum(
        item.num_scheduled_tokens * (1 + (item.num_computed_tokens + item.num_scheduled_tokens) / CONTEXT)
        for item in plan.scheduled
    )
