"""A frontend that was told to stop: what runs ends well, what is new is refused, and the listener stays until then."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.processes import core_process

STEP_MS = 20


class Frontend:
    """A frontend on a core of its own."""

    def __init__(self, config_file: Path, listening: socket.socket) -> None:
        fd = listening.fileno()
        reading, writing = os.pipe()
        arguments = ["--config", str(config_file), "--index", "0", "--fd", str(fd), "--ready-fd", str(writing)]
        self.process = subprocess.Popen([sys.executable, "-m", "frontend", *arguments], pass_fds=[fd, writing])
        os.close(writing)
        assert os.read(reading, 10) == b"ready\n"
        os.close(reading)
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"

    def post(self, max_tokens: int = 1, **fields: str) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/completions", json={**self.body(max_tokens), **fields}, timeout=20)

    @staticmethod
    def body(max_tokens: int) -> dict[str, Any]:
        return {"model": "fake", "prompt": "a", "max_tokens": max_tokens, "ignore_eos": True}


class Stream(threading.Thread):
    """A streamed completion, read by a thread; `began` is set with its first chunk."""

    def __init__(self, frontend: Frontend, max_tokens: int) -> None:
        super().__init__()
        self.began = threading.Event()
        self.lines: list[str] = []
        self.ended_at = 0.0
        self._url, self._body = f"{frontend.url}/v1/completions", {**frontend.body(max_tokens), "stream": True}
        self.start()
        assert self.began.wait(10)

    def run(self) -> None:
        with httpx.stream("POST", self._url, json=self._body, timeout=20) as response:
            for line in filter(None, response.iter_lines()):
                self.lines.append(line)
                self.began.set()
        self.ended_at = time.monotonic()

    @property
    def last_event(self) -> Any:
        return json.loads(self.lines[-1].removeprefix("data: "))


@contextmanager
def running_frontend(folder: Path, **settings) -> Iterator[Frontend]:
    with core_process(folder, fake_step_ms=STEP_MS, **settings) as core:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            frontend = Frontend(core.run_dir.config_file, listening)
        yield frontend
        frontend.process.kill()
        frontend.process.wait()


def assert_refused(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "draining")
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["connection"] == "close"


def test_what_runs_ends_well_while_new_requests_are_refused(tmp_path):
    with running_frontend(tmp_path) as frontend, httpx.Client(base_url=frontend.url, timeout=20) as kept_alive:
        stream = Stream(frontend, max_tokens=60)
        assert kept_alive.get("/v1/models").status_code == 200
        frontend.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        health = httpx.get(f"{frontend.url}/health")
        assert (health.status_code, health.json()["status"]) == (503, "draining")
        assert httpx.get(f"{frontend.url}/health/live").status_code == 200
        assert_refused(kept_alive.post("/v1/completions", json=frontend.body(1)))
        for _ in range(5):
            assert_refused(frontend.post())
        assert_refused(frontend.post(prompt="a" * 2_000_000))  # read away, so that the refusal arrives
        stream.join(20)
        assert frontend.process.wait(5) == 0
        assert time.monotonic() - stream.ended_at < 2
    assert stream.lines[-1] == "data: [DONE]"
    assert sum(len(json.loads(line[6:])["choices"][0]["text"]) for line in stream.lines[:-1]) == 60


def test_a_stream_that_takes_longer_than_the_drain_ends_in_an_error(tmp_path):
    with running_frontend(tmp_path, drain_timeout=0.5) as frontend:
        stream = Stream(frontend, max_tokens=2000)
        signalled_at = time.monotonic()
        frontend.process.send_signal(signal.SIGTERM)
        stream.join(20)
        assert 0.4 < stream.ended_at - signalled_at < 1.5
        assert stream.last_event["error"]["code"] == "shutting_down"
        assert frontend.process.wait(5) == 0


def test_a_second_signal_ends_what_runs(tmp_path):
    with running_frontend(tmp_path) as frontend:
        stream = Stream(frontend, max_tokens=2000)
        for _ in range(2):
            frontend.process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        assert frontend.process.wait(2) == 0
        stream.join(20)
        assert stream.last_event["error"]["code"] == "shutting_down"


def test_without_streams_it_leaves_at_once(tmp_path):
    with running_frontend(tmp_path) as frontend:
        assert frontend.post(5).status_code == 200
        started = time.monotonic()
        frontend.process.send_signal(signal.SIGTERM)
        assert frontend.process.wait(5) == 0
        assert time.monotonic() - started < 1.5
