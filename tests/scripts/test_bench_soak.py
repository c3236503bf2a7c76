"""A server under load is watched interval after interval, and whatever goes wrong ends with status 1."""

import re
import subprocess
import sys
from pathlib import Path

from tests.fast_inference.bench.test_own_server import pids_of

SCRIPT = Path(__file__).parents[2] / "scripts/bench_soak.py"
FLAGS = ("--model", "fake", "--minutes", "0.02", "--interval", "0.4", "--concurrency", "4", "--output-len", "10")


def run(*server_flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *FLAGS, "--", "--fake-step-ms", "2", "--frontends", "1", *server_flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_each_interval_has_its_throughput_and_memory():
    done = run("--num-blocks", "64")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:4]]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    for _, tokens_per_s, answers, failed, core, frontends in rows:
        assert 0 < float(tokens_per_s) <= 4 / 0.002  # 4 streams, a step takes 2 ms
        assert int(answers) > 0
        assert failed == "0"
        assert 10 < float(core) < 1000
        assert 10 < float(frontends) < 1000
    first, last = float(rows[0][1]), float(rows[2][1])
    share = re.search(r"^last / first: (\d\.\d+), goal at least 0\.95$", done.stdout, re.MULTILINE)
    assert share is not None
    assert abs(float(share[1]) - last / first) < 0.1
    assert re.search(r"^memory of the core grew by [+-]\d+\.\d\d MiB per minute", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("failed requests: 0\n")


def test_growth_is_not_told_before_the_cache_was_filled():
    done = run("--num-blocks", "100000")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the KV cache was not filled in time") == 2


def test_failed_requests_end_with_status_1():
    done = run("--fake-faults", "nan@5")
    assert done.returncode == 1
    assert re.search(r"^  \d+ failed: .*nan_logits", done.stdout, re.MULTILINE)
    assert re.fullmatch(r"error: \d+ requests failed", done.stderr.splitlines()[-1])


def test_a_core_that_was_replaced_ends_the_run_with_status_1():
    done = run("--fake-faults", "die@150")
    assert done.returncode == 1
    assert "error: a process of the server died" in done.stderr.splitlines()[-1]


def test_sigterm_ends_it_with_one_line_and_its_server_is_gone(tmp_path):
    name = f"soaked-{tmp_path.name}"
    command = [sys.executable, str(SCRIPT), "--model", "fake", "--", "--served-model-name", name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("interval")
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert errors.splitlines()[-1] == "error: interrupted by SIGTERM"
    assert pids_of(name) == []
