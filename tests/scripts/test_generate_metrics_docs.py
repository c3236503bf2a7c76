import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_table_of_metrics_is_that_of_the_code():
    command = [sys.executable, str(ROOT / "scripts/generate_metrics_docs.py"), "--check"]
    check = subprocess.run(command, capture_output=True, text=True)
    assert (check.returncode, check.stderr) == (0, "")
