"""SIGTERM under load with real children: every stream ends well, everybody else is told, and nothing is left behind."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.servers import ROOT, Server, is_running

NUM_STREAMS = 20
NUM_TOKENS = 60


@pytest.fixture
def server(tmp_path: Path):
    server = Server(tmp_path, "fake", "--fake-step-ms", "25")
    yield server
    server.close()


def body(max_tokens: int) -> dict[str, object]:
    return {"model": "fake", "prompt": "a", "max_tokens": max_tokens, "ignore_eos": True}


class Streams:
    """Streams of 1.5 s, which begin together."""

    def __init__(self, server: Server) -> None:
        self.lines: list[list[str]] = []
        self.ended_at: list[float] = []
        self._all_began = threading.Barrier(NUM_STREAMS + 1)
        self._threads = [threading.Thread(target=self._read, args=[server]) for _ in range(NUM_STREAMS)]
        for thread in self._threads:
            thread.start()
        self._all_began.wait(20)

    def _read(self, server: Server) -> None:
        request = {**body(NUM_TOKENS), "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=request, timeout=20) as response:
            lines = response.iter_lines()
            first = next(lines)
            self._all_began.wait(20)
            self.lines.append([first, *filter(None, lines)])
        self.ended_at.append(time.monotonic())

    def join(self) -> None:
        for thread in self._threads:
            thread.join(20)


def test_sigterm_under_load(server: Server):
    pids = server.child_pids
    streams = Streams(server)
    server.process.terminate()
    time.sleep(0.2)
    answers: Counter[object] = Counter()
    while not streams.ended_at:
        health, refused = httpx.get(f"{server.url}/health"), httpx.post(f"{server.url}/v1/completions", json=body(1))
        answers[health.status_code, health.json()["status"]] += 1
        answers[refused.status_code, refused.json()["error"]["code"], refused.headers["connection"]] += 1
    assert set(answers) == {(503, "draining"), (503, "draining", "close")}
    streams.join()
    assert server.process.wait(5) == 0
    assert time.monotonic() - max(streams.ended_at) < 2
    assert [lines[-1] for lines in streams.lines] == ["data: [DONE]"] * NUM_STREAMS
    assert not any(is_running(pid) for pid in pids)
    assert set(os.listdir(server.run_dir)) == {".fast-inference", "status.json"}


def test_a_core_that_dies_during_the_drain_is_replaced_for_what_runs(server: Server):
    streams = Streams(server)
    server.process.terminate()
    os.kill(server.core_pid, signal.SIGKILL)
    streams.join()
    assert [lines[-1] for lines in streams.lines] == ["data: [DONE]"] * NUM_STREAMS
    assert server.process.wait(5) == 0


def test_a_second_sigint_ends_streams_with_an_error_and_everything_within_two_seconds(server: Server):
    pids = server.child_pids
    streams = Streams(server)
    started = time.monotonic()
    for _ in range(2):
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert server.process.wait(5) == 130
    assert time.monotonic() - started < 2
    streams.join()
    assert [json.loads(lines[-1][6:])["error"]["code"] for lines in streams.lines] == ["shutting_down"] * NUM_STREAMS
    assert not any(is_running(pid) for pid in pids)


def test_a_server_ends_with_its_terminal(tmp_path: Path):
    terminal, its_side = os.openpty()
    command = [sys.executable, "-m", "fast_inference", "serve", "fake", "--port", "0", "--frontends", "1"]
    command += ["--run-dir", str(tmp_path / "run")]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=its_side,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(its_side)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"ready: ")
    os.close(terminal)
    assert process.wait(10) == 0
    process.communicate()
