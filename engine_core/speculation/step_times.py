"""How long steps without prompts take by their number of rows: what the rows of a draft cost on this machine.

Times are passed in, so the estimates are a function of what was observed. Kept by `scheduler/drafts.py`, and by
`scheduler/prefill_budget.py` for what prompts may add to a step.
Invariant: one step that hung moves an estimate by half of it at most, and the first step of a kind, in which kernels
may be made ready, only in that it bounds the second.
"""

UNKNOWN_ROW_COST = 0.05
"""Of a row beyond those that were measured, relative to the step without it."""
SMOOTHING = 0.1
MAX_GROWTH = 1.5
"""A time counts as no more than so many times the estimate."""


class StepTimes:
    """Moving averages, in seconds."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._num_observed: dict[int, int] = {}
        self._first: dict[int, float] = {}

    def observe(self, num_rows: int, seconds: float) -> None:
        """A step that computed one row for each of its tokens and no prompt took so long."""
        if num_rows == 0:
            return
        count = self._num_observed[num_rows] = self._num_observed.get(num_rows, 0) + 1
        if count == 1:
            self._first[num_rows] = seconds
            return
        estimate = self._seconds.get(num_rows, min(seconds, self._first[num_rows]))
        seconds = min(seconds, MAX_GROWTH * estimate)
        self._seconds[num_rows] = estimate + max(SMOOTHING, 1 / (count - 1)) * (seconds - estimate)

    def seconds(self, num_rows: int) -> float | None:
        """What a step of so many rows takes, on lines between the sizes that were seen; None before any, or for 0."""
        if not num_rows or not self._seconds:
            return None
        smallest, largest = min(self._seconds), max(self._seconds)
        below = max((size for size in self._seconds if size <= num_rows), default=smallest)
        above = min((size for size in self._seconds if size >= num_rows), default=largest)
        if above < num_rows:  # no step was that large: the line from the smallest size goes on
            below = smallest
        slope = (self._seconds[above] - self._seconds[below]) / (above - below) if above > below else 0.0
        return self._seconds[below] + max(0.0, slope) * (num_rows - below)

    def growth(self, num_rows: int, num_more_rows: int) -> float:
        """How much longer a step of `num_rows` takes with so many more rows, relative to without; not negative.

        Where that was not measured, the nearest larger number of rows that was tells the cost of a row.
        """
        plain = self._seconds.get(num_rows)
        larger = [size for size in self._seconds if size > num_rows]
        if not plain or not larger:
            return UNKNOWN_ROW_COST * num_more_rows
        nearest = min(larger, key=lambda size: abs(size - num_rows - num_more_rows))
        growth = self._seconds[nearest] / plain - 1
        return max(0.0, growth) * num_more_rows / (nearest - num_rows)
