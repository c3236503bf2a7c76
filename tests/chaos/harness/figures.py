"""What a scenario gives back: promises with a figure and a goal each, and how they are shown."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One promise, what was measured, and the pass line."""

    item: int
    """Number in the table of docs/reliability.md; 0 for what stands beside it."""
    promise: str
    value: float
    goal: float
    unit: str = ""
    is_at_least: bool = False
    """The goal is a lower bound; else an upper one."""
    detail: str = ""
    """For people, where it was not met: the first cases."""

    @property
    def is_timed(self) -> bool:
        """It depends on how busy the machine is."""
        return self.unit in ("s", "ms")

    def is_met(self, slack: float = 1.0) -> bool:
        """True if it passes; `slack` widens the upper bounds of times, for machines that do other things too."""
        if self.is_at_least:
            return self.value >= self.goal
        return self.value <= self.goal * (slack if self.is_timed else 1.0)


def none_of(item: int, promise: str, cases: Sequence[object]) -> Figure:
    """It never happens; the first cases are shown."""
    return Figure(item, promise, len(cases), 0, detail="; ".join(map(str, cases[:3])))


def at_most(item: int, promise: str, values: Sequence[float], goal: float, unit: str) -> Figure:
    """The largest of the values, one per round, is at most the goal.

    Raises:
        ValueError: there is no value.
    """
    return Figure(item, promise, max(values), goal, unit)


def all_of(item: int, promise: str, num_good: int, num_all: int, share: float = 1.0, detail: str = "") -> Figure:
    """At least this share of them, and there is at least one."""
    value = 100.0 * num_good / num_all if num_all else 0.0
    return Figure(item, f"{promise}, of {num_all}", value, 100.0 * share, "%", is_at_least=True, detail=detail)


def table(figures: Sequence[Figure]) -> str:
    """Aligned lines: pass or fail, item, promise, figure, goal; details below what failed."""
    lines = []
    for figure in figures:
        mark = "pass" if figure.is_met() else "FAIL"
        bound = ">=" if figure.is_at_least else "<="
        item = str(figure.item or "")
        value, goal = _number(figure.value), f"{bound} {_number(figure.goal)} {figure.unit}".rstrip()
        lines.append(f"  {mark} {item:>3}  {figure.promise:<72} {value:>8} {figure.unit:<4} {goal}")
        if figure.detail and not figure.is_met():
            lines.append(f"            {figure.detail}")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.2f}"
