"""A short overload: what is accepted is answered, the rest is refused, and nothing else happens."""

import re
import subprocess
import sys
from pathlib import Path

from tests.scripts.test_bench_connections import FIGURE

SCRIPT = Path(__file__).parents[2] / "scripts/bench_overload.py"
FLAGS = ("--seconds", "1.5", "--peak-seconds", "0.7", "--recovery-seconds", "0.7")
FLAGS += ("--max-num-seqs", "8", "--factor", "5", "--output-len", "8")


def test_the_table_shows_what_was_answered_and_what_was_refused():
    command = [sys.executable, str(SCRIPT), *FLAGS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    figures = {name: float(value) for name, value, _ in FIGURE.findall(done.stdout)}
    assert len(figures) == 6, done.stdout + done.stderr
    assert figures["requests that failed otherwise"] == 0
    assert figures["goodput over peak"] > 0.1
    assert figures["requests offered over peak"] > 2
    refused = re.search(r", (\d+) answered, (\d+) refused; ", done.stdout)
    assert refused is not None
    assert min(map(int, refused.groups())) > 0
