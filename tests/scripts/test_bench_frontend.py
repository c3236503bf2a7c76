"""The measurement of the frontends counts every token, and prints what people look for."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts/bench_frontend.py"


def run(*argv):
    command = [sys.executable, str(SCRIPT), *argv, "--frontends", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_tokens_have_a_rate_and_a_price():
    printed = run("tokens", "--streams", "4", "--max-tokens", "50", "--rounds", "1", "--fake-step-ms", "10")
    rows = re.findall(r"^ +(.+): +(\d+) tokens/s, (\d\.\d\d) tokens per chunk; CPU per token: frontend", printed, re.M)
    assert [label for label, _, _ in rows] == ["text", "with logprobs"]
    assert all(0 < int(tokens_per_s) <= 400 for _, tokens_per_s, _ in rows)  # 4 streams, 100 steps a second
    assert all(float(tokens_per_chunk) >= 1 for _, _, tokens_per_chunk in rows)


def test_the_delay_of_first_chunks_is_taken_for_each_stream():
    printed = run("first-chunk", "--first-chunks", "3")
    assert re.search(r"^ +first chunk: -?\d+\.\d\d ms .*\(p50\).* of 3 streams", printed, re.M), printed
