"""`fast-inference bench` as a process that is told to stop: what it has is printed, and its server is gone."""

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.fast_inference.bench.test_own_server import pids_of
from tests.fast_inference.test_cli import ROOT
from tests.servers import Server
from tests.waiting import wait_until

BOTH_SIGNALS = pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
SHORT_LOAD = ("--input-len", "5", "--output-len", "5", "--num-prompts", "2")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("interrupted"), "fake", "--fake-step-ms", "5", "--frontends", "1")
    yield server
    server.close()


def start(*argv: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fast_inference", "bench", *map(str, argv)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
    """Exit status, stdout and the lines of stderr."""
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err.splitlines()


@BOTH_SIGNALS
def test_the_rounds_that_are_complete_are_reported(server, tmp_path, signum, status):
    report = tmp_path / "report.json"
    lengths = ("--input-len", 5, "--output-len", "5,3000", "--num-prompts", 2)  # the second load lasts for 15 s
    process = start("serve", "--url", server.url, *lengths, "--output", report)
    assert process.stderr is not None
    assert "concurrency 1" in process.stderr.readline()  # the first load is over
    process.send_signal(signum)
    code, out, errors = ended(process)
    assert code == status
    assert errors[-1] == f"error: interrupted by {signum.name} after 1 of 2 rounds"
    assert "concurrency 1: 2 requests, 5 in, 5 out\n  completed 2, failed 0" in out
    assert "3000 out" not in out
    saved = json.loads(report.read_text())
    assert (saved["is_complete"], len(saved["results"])) == (False, 1)
    with urllib.request.urlopen(f"{server.url}/health") as answer:  # it is not the benchmark's own
        assert answer.status == 200


@BOTH_SIGNALS
def test_without_a_complete_round_there_is_one_line(server, signum, status):
    process = start("serve", "--url", server.url, "--input-len", 5, "--output-len", 3000, "--num-warmups", 0)
    wait_until(lambda: num_running(server))
    process.send_signal(signum)
    assert ended(process) == (status, "", [f"error: interrupted by {signum.name} before a round was complete"])
    wait_until(lambda: not num_running(server))  # its requests went with it


def num_running(server: Server) -> int:
    with urllib.request.urlopen(f"{server.url}/load") as answer:
        return int(json.load(answer)["num_requests_running"])


@BOTH_SIGNALS
def test_a_server_of_its_own_is_stopped(tmp_path, signum, status):
    name = f"interrupted-{signum.name}-{tmp_path.name}"
    flags = ("--input-len", 5, "--output-len", 3000, "--", "--fake-step-ms", 5, "--served-model-name", name)
    process = start("latency", "--model", "fake", *flags)
    wait_until(lambda: is_ready(name), timeout_s=20)
    process.send_signal(signum)
    code, out, errors = ended(process)
    assert (code, out) == (status, "")
    assert errors[-1].startswith(f"error: interrupted by {signum.name}")
    assert pids_of(name) == []


def is_ready(name: str) -> bool:
    """Whether the server with this flag serves."""
    for pid in pids_of(name):
        argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if "--run-dir" in argv:
            status = Path(argv[argv.index("--run-dir") + 1]) / "status.json"
            return status.exists() and json.loads(status.read_text())["state"] == "ready"
    return False


@BOTH_SIGNALS
def test_a_server_that_still_starts_is_stopped(tmp_path, signum, status):
    name = f"interrupted-early-{signum.name}-{tmp_path.name}"
    process = start("throughput", "--model", "fake", "--", "--served-model-name", name)
    wait_until(lambda: len(pids_of(name)) > 1)
    process.send_signal(signum)
    code, out, errors = ended(process)
    assert (code, out) == (status, "")
    assert errors[-1].startswith(f"error: interrupted by {signum.name}")
    assert pids_of(name) == []
