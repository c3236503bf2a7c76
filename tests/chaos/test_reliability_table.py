"""docs/reliability.md has a row for each promise, and names nothing that does not exist."""

import re
from pathlib import Path

from tests.chaos.scenarios.catalogue import SCENARIOS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/reliability.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\| \d+ \|.*$", TEXT, re.M)]


def test_every_promise_of_the_list_has_its_row():
    assert [int(row[0]) for row in ROWS] == list(range(1, 47))
    assert {len(row) for row in ROWS} == {5}


def test_every_test_that_it_names_exists():
    missing = []
    for path, _, name in re.findall(r"`(tests/[\w/]+\.py)(::(\w+))?`", TEXT):
        source = (ROOT / path).read_text() if (ROOT / path).exists() else ""
        if not source or (name and f"def {name}(" not in source):
            missing.append(f"{path}::{name}")
    assert missing == []


def test_every_script_that_it_names_exists():
    scripts = set(re.findall(r"`(scripts/[\w.]+)", TEXT))
    assert "scripts/chaos" in scripts
    assert [script for script in sorted(scripts) if not (ROOT / script).exists()] == []


def test_it_names_every_scenario_and_no_other():
    named = {name for row in ROWS for name in re.findall(r"`([a-z-]+)`", row[3])}
    named |= set(re.findall(r"`([a-z-]+)`", TEXT.rpartition("Beside the list:")[2])) - {"fast-inference"}
    assert named == {scenario.name for scenario in SCENARIOS}
