"""The profile of a step prints what people look for."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts/profile_step.py"


def test_the_parts_make_up_the_step():
    argv = [sys.executable, str(SCRIPT), "--running", "4", "--steps", "20"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    medians = {name: int(median) for name, median in re.findall(r"^(\w+) +(\d+) +\d+$", done.stdout, re.MULTILINE)}
    assert list(medians) == ["schedule", "update", "execute", "step", "cpu", "encode"]
    assert all(medians.values())
    assert medians["step"] >= max(medians["schedule"], medians["update"], medians["execute"])
    assert re.search(r"^schedule \+ update: \d+\.\d\d ms \(median\), \d+\.\d% of", done.stdout, re.MULTILINE)
