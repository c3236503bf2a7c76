"""What docs/extending.md shows of the repository's own code is what that code says."""

import re

import numpy as np
import pytest

from tests.documents import ROOT, blocks, section

DOCUMENT = ROOT / "docs/extending.md"
TEXT = DOCUMENT.read_text()
STEPS = re.split(r"^(?=\*\*\d+\. )", section(TEXT, "Your own sampling rule"), flags=re.MULTILINE)[1:]


def lines_of(code: str) -> list[str]:
    return [line.rstrip() for line in code.splitlines() if line.strip()]


def lines_of_diff(code: str) -> list[str]:
    return [line[1:] for line in code.splitlines()]


def is_within(lines: list[str], others: list[str]) -> bool:
    """All of them, in this order, with whatever else between them."""
    remaining = iter(others)
    return all(line in remaining for line in lines)


def shown_code(step: str) -> list[tuple[str, str]]:
    """Each file that a step links to before a block, with the block."""
    before = step.partition("```")[0]
    paths = dict.fromkeys(re.findall(r"\]\(\.\./([\w/]+\.py)\)", before))
    return [(path, code) for code in blocks(step, "diff") for path in paths]


def test_the_walk_has_eight_steps_of_which_seven_show_code():
    assert len(STEPS) == 8
    assert sum(bool(shown_code(step)) for step in STEPS) == 7


@pytest.mark.parametrize("step", STEPS, ids=lambda step: re.match(r"\*\*(\d)", step)[1])
def test_the_code_of_a_step_is_in_a_file_that_it_names(step):
    shown = shown_code(step)
    found = [path for path, code in shown if is_within(lines_of_diff(code), lines_of((ROOT / path).read_text()))]
    assert found or not shown


def test_the_route_that_is_shown_is_that_of_the_example():
    [snippet] = [code for code in blocks(TEXT, "python") if "summarize" in code]
    assert is_within(lines_of(snippet), lines_of((ROOT / "examples/custom_endpoint.py").read_text()))


def test_the_worked_example_is_computed_right():
    assert "With the logits 5, 4, 2, 1, 0, 0 the deviation is 1.91, so *n* = 0.6 keeps what is above\n3.85" in TEXT
    deviation = np.std([5.0, 4, 2, 1, 0, 0])
    assert (round(deviation, 2), round(5 - 0.6 * deviation, 2)) == (1.91, 3.85)
