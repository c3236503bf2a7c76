"""Every number of cores is measured with every length of prompt, and printed as a table or as JSON."""

import json
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts/bench_routing.py"


def run(*flags: str) -> str:
    command = [sys.executable, str(SCRIPT), "--cores", "1,3", "--tokens", "10,200", "--requests", "20", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_table_has_a_row_for_each_number_of_cores_and_length():
    lines = run().splitlines()
    assert re.fullmatch(r" +cores +prompt tokens +median µs +p99 µs", lines[0])
    assert [line.split()[:2] for line in lines[1:]] == [["1", "10"], ["1", "200"], ["3", "10"], ["3", "200"]]


def test_json_has_the_same():
    rows = json.loads(run("--json"))
    assert [(row["cores"], row["prompt_tokens"]) for row in rows] == [(1, 10), (1, 200), (3, 10), (3, 200)]
    assert all(0 < row["median_us"] <= row["p99_us"] for row in rows)
