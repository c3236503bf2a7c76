"""A few kills of a small job: nothing is lost or there twice, and all answers are those of an undisturbed job."""

import subprocess
import sys
from pathlib import Path

from tests.scripts.test_bench_connections import FIGURE

SCRIPT = Path(__file__).parents[2] / "scripts/kill_batch.py"
FLAGS = ("--lines", "60", "--kills", "3", "--max-tokens", "60", "--max-in-flight", "8", "--fake-step-ms", "8")


def test_a_job_survives_its_runner_and_its_core():
    command = [sys.executable, str(SCRIPT), *FLAGS, "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    figures = {name: verdict for name, _, verdict in FIGURE.findall(done.stdout)}
    del figures["tokens computed again"]  # of so few, beside other work, it means nothing
    assert len(figures) == 5, done.stdout + done.stderr
    assert set(figures.values()) == {"ok"}, done.stdout + done.stderr
