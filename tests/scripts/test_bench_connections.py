"""Idle, slow and unread connections in small numbers: all are closed in time, and nothing is left of them."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts/bench_connections.py"
FIGURE = re.compile(r"^  (.+?)  +(-?[0-9.]+|inf|nan) .* at (?:most|least) +[0-9.]+  (ok|MISSED)$", re.MULTILINE)
COUNTS = ("--connections", "300", "--slow-requests", "40", "--slow-readers", "4", "--control-seconds", "0.3")
TIMEOUTS = ("--header-timeout", "0.4", "--body-timeout", "0.4", "--send-timeout", "0.4", "--byte-interval", "0.1")


def test_connections_cost_little_and_slow_ones_are_closed():
    command = [sys.executable, str(SCRIPT), *COUNTS, *TIMEOUTS, "--", "--fake-step-ms", "5", "--frontends", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    figures = FIGURE.findall(done.stdout)
    assert len(figures) == 14, done.stdout + done.stderr
    missed = [name for name, _, verdict in figures if verdict == "MISSED"]
    assert [name for name in missed if "p99" not in name] == []  # beside other work, latencies mean nothing
    assert done.returncode == bool(missed)
