"""A node of a Ray cluster is killed under streams: the core comes back on the other one, and no request notices more
than a pause. The script with its smallest cluster; the rest of it is for people (docs/scaling.md).
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/check_ray.py"
SMALL = ["--nodes", "2", "--cores", "1", "--streams", "6", "--stream-tokens", "60", "--step-ms", "25"]


@pytest.mark.alone
def test_a_lost_node_costs_a_pause(tmp_path):
    command = [sys.executable, str(SCRIPT), "node", *SMALL, "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = {figure["name"]: figure["value"] for figure in json.loads((tmp_path / "figures.json").read_text())}
    assert figures["node: failed requests"] == 0
    assert figures["node: streams with the text of an undisturbed run"] == 6
