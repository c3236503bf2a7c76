"""`scripts/check_cores.py` with few requests: all its goals hold, and what it starts is gone when it ends."""

import subprocess
import sys

import pytest

from tests.processes import ROOT

SMALL = ["--requests", "60", "--concurrency", "4", "--groups", "6", "--streams", "12", "--stream-tokens", "200"]


def test_two_cores_keep_their_promises():
    command = [sys.executable, str(ROOT / "scripts/check_cores.py"), *SMALL, "--step-ms", "10"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.count("  ok\n") == 6


def test_an_unknown_part_is_refused():
    command = [sys.executable, str(ROOT / "scripts/check_cores.py"), "spred"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert process.returncode == 2
    assert "no part is called spred" in process.stderr


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["prefixes", "--requests", "30"], "--requests must be at least twice --groups"),
        (["kill", "--cores", "1"], "kill needs two cores at least"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_a_server_starts(flags, problem):
    command = [sys.executable, str(ROOT / "scripts/check_cores.py"), *flags]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert process.returncode == 2
    assert problem in process.stderr
