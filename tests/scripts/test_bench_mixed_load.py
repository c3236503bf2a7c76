"""Streams are measured alone and beside prompts, on a server of the script's own."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts/bench_mixed_load.py"
FLAGS = ("--model", "fake", "--streams", "3", "--tokens", "80", "--rounds", "1", "--prompt-len", "50")


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *FLAGS, *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_each_round_has_both_latencies_and_the_prompts():
    done = run("--interval", "0.1", "--", "--fake-step-ms", "5", "--frontends", "1")
    assert done.returncode == 0, done.stderr
    number = r"(\d+(?:\.\d+)?)"
    times = f"p50 {number} ms, p99 {number} ms"
    rounds = re.findall(
        rf"^round \d: ITL alone {times}; with prompts {times}; TTFT of {number} prompts of {number} tokens {times}; "
        rf"p99 with / p50 alone {number}x$",
        done.stdout,
        re.MULTILINE,
    )
    assert len(rounds) == 1, done.stdout
    for texts in rounds:
        alone_p50, alone_p99, with_p50, with_p99, num_prompts, num_tokens, _, _, ratio = map(float, texts)
        assert 4 < alone_p50 <= alone_p99  # about a step
        assert 4 < with_p50 <= with_p99
        assert num_prompts >= 2
        assert num_tokens > 50
        assert ratio > 0.5
    assert re.search(r"\d+\.\d\dx \(median of 1\), goal at most 3\.00x$", done.stdout.strip())


def test_failed_requests_are_told_and_end_with_status_1():
    done = run("--interval", "0.1", "--", "--fake-step-ms", "5", "--frontends", "1", "--fake-faults", "nan@4")
    assert done.returncode == 1
    assert re.search(r"^failed: .*nan_logits", done.stderr, re.MULTILINE)
    assert re.fullmatch(r"error: \d+ requests failed", done.stderr.splitlines()[-1])
