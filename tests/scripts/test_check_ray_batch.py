"""A node of a Ray cluster is killed under a batch job: every line is answered exactly once."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.test_bench_connections import FIGURE

SCRIPT = Path(__file__).parents[2] / "scripts/check_ray_batch.py"
SMALL = ("--lines", "600", "--lines-per-part", "30", "--nodes", "2")
SLOW = ("--", "--model", "fake", "--fake-step-ms", "30", "--max-num-seqs", "32")
"""So that a part is under way whenever the node is killed."""


@pytest.mark.alone
@pytest.mark.timeout(240)
def test_a_job_survives_a_lost_node():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *SMALL, *SLOW], capture_output=True, text=True, timeout=230, check=False
    )
    figures = {name: verdict for name, _, verdict in FIGURE.findall(done.stdout)}
    assert len(figures) == 5, done.stdout + done.stderr
    assert set(figures.values()) == {"ok"}, done.stdout + done.stderr
