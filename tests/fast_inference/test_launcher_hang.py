"""A core that hangs is killed and replaced, and the log and the status say why."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.servers import Server
from tests.waiting import wait_until

HANG_STEP = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each of its cores hangs in its fourth step."""
    folder: Path = tmp_path_factory.mktemp("server")
    flags = ["--hang-timeout", "2", "--fake-faults", f"hang@{HANG_STEP}", "--on-core-loss", "fail"]
    server = Server(folder, "fake", "--frontends", "1", *flags)
    yield server
    server.close()


def generate(server: Server, num_tokens: int) -> httpx.Response:
    body = {"model": "fake", "prompt": "a", "max_tokens": num_tokens, "ignore_eos": True}
    return httpx.post(f"{server.url}/v1/completions", json=body, timeout=20)


def is_replaced(server: Server, pid: int) -> bool:
    return server.status["state"] == "ready" and server.core_pid != pid


def test_a_step_that_hangs_ends_in_a_stack_dump_and_a_new_core(server: Server):
    pid = server.core_pid
    generate(server, HANG_STEP + 5)
    wait_until(lambda: is_replaced(server, pid))
    assert server.status["core"]["last_exit"].startswith("hung (its step takes ")
    assert f"engine core (pid {pid}) hung (its step takes " in server.stderr
    assert "in _inject_faults" in server.stderr
    wait_until(lambda: generate(server, HANG_STEP - 1).status_code == 200)  # frontends hear of it a moment later


def test_a_core_that_is_stopped_for_too_long_is_replaced(server: Server):
    pid = server.core_pid
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: is_replaced(server, pid))
    assert server.status["core"]["last_exit"].startswith("hung (it was silent for ")
    wait_until(lambda: generate(server, HANG_STEP - 1).status_code == 200)  # frontends hear of it a moment later
