"""The engine core is replaced under load: no request fails, every answer is whole and exact."""

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import httpx
import openai
import pytest

from tests.servers import ROOT, Server

NUM_CLIENTS = 16
LENGTHS = (10, 150)
"""Tokens of an answer: some end while the old core retires, some go on with the new one."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    server = Server(tmp_path_factory.mktemp("server"), "fake", "--fake-step-ms", "10", "--drain-timeout", "0.3")
    yield server
    server.close()


class Clients:
    """Each asks the same again and again, streamed, until told to stop."""

    def __init__(self, server: Server) -> None:
        self.answers: Counter[tuple[int, str]] = Counter()
        self.failures: list[Exception] = []
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=[server, number]) for number in range(NUM_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self, server: Server, number: int) -> None:
        options = {"max_tokens": LENGTHS[number % len(LENGTHS)], "extra_body": {"ignore_eos": True}}
        with server.openai() as client:
            while not self._is_over.is_set():
                try:
                    stream = client.completions.create(model="fake", prompt=f"{number}", stream=True, **options)
                    text = "".join(chunk.choices[0].text for chunk in stream)
                except (openai.OpenAIError, httpx.HTTPError) as error:
                    self.failures.append(error)
                else:
                    self.answers[number, text] += 1

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(30)


def reload(run_dir: Path) -> None:
    argv = [sys.executable, "-m", "fast_inference", "reload", "--run-dir", str(run_dir)]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, timeout=30)


def test_no_request_fails_and_no_answer_changes(server: Server):
    frontends = server.status["frontends"]
    clients = Clients(server)
    pids = {server.core_pid}
    for _ in range(2):
        reload(server.run_dir)
        pids.add(server.core_pid)
    clients.stop()
    assert clients.failures == []
    assert len(pids) == 3
    assert server.status["frontends"] == frontends
    assert sorted(number for number, _ in clients.answers) == list(range(NUM_CLIENTS))
    assert "requests wait for a core" in server.stderr
