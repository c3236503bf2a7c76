"""Figures with goals: how scripts that judge a server print them, and what they end with.

Invariant: a figure that could not be measured (NaN) misses its goal.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """What came out, and what it may be at most, or must be at least."""

    name: str
    value: float
    limit: float
    unit: str = ""
    is_minimum: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the goal is."""
        return self.value >= self.limit if self.is_minimum else self.value <= self.limit

    def __str__(self) -> str:
        side = "at least" if self.is_minimum else "at most"
        verdict = "ok" if self.is_met else "MISSED"
        return f"{self.name:<60}{self.value:>10.2f} {self.unit:<6} {side:>8} {self.limit:>8.2f}  {verdict}"


def verdict_on(figures: Iterable[Figure]) -> str | None:
    """What to exit with: a line that says how many goals were missed, or None."""
    missed = sum(not figure.is_met for figure in figures)
    return f"error: {missed} goals missed" if missed else None
