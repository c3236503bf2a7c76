"""Figures and their goals."""

import pytest

from fast_inference.bench.goals import Figure, verdict_on


@pytest.mark.parametrize(
    ("figure", "is_met"),
    [
        (Figure("seconds", 5.0, 5.0), True),
        (Figure("seconds", 5.1, 5.0), False),
        (Figure("share", 0.9, 0.9, is_minimum=True), True),
        (Figure("share", 0.8, 0.9, is_minimum=True), False),
        (Figure("unknown", float("nan"), 5.0), False),
        (Figure("unknown", float("nan"), 5.0, is_minimum=True), False),
    ],
)
def test_a_goal_is_met_or_missed(figure: Figure, is_met: bool):
    assert figure.is_met == is_met
    assert str(figure).endswith("ok" if is_met else "MISSED")


def test_the_verdict_counts_what_was_missed():
    met, missed = Figure("a", 1.0, 2.0), Figure("b", 3.0, 2.0)
    assert verdict_on([met, met]) is None
    assert verdict_on([met, missed, missed]) == "error: 2 goals missed"
