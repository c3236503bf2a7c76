"""Several cores of one server, as real processes: started, replaced, reloaded and drained, each without the others."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipc.core_directory import read_cores
from ipc.endpoints import RunDir
from ipc.sync_client import SyncEngineClient
from tests.processes import READY_TIMEOUT_S, stats
from tests.servers import ROOT, Server, StartingServer, is_running
from tests.waiting import wait_until

FLAGS = ("--cores", "2", "--frontends", "1", "--fake-step-ms", "20")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), "fake", *FLAGS)
    yield server
    server.close()


@pytest.fixture
def mortal_server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path, "fake", *FLAGS)
    yield server
    server.close()


def core_pids(server: StartingServer) -> list[int]:
    return [core["pid"] for core in server.status["cores"]]


def are_ready(server: StartingServer) -> bool:
    return [core["state"] for core in server.status["cores"]] == ["ready"] * 2


def complete(server: Server, max_tokens: int = 1, prompt: str = "a") -> httpx.Response:
    body = {"model": "fake", "prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True}
    return httpx.post(f"{server.url}/v1/completions", json=body, timeout=30)


def reload(server: Server, *model: str) -> tuple[int, str, str]:
    """Exit status, stdout, and stderr without the stages of the wait."""
    argv = [sys.executable, "-m", "fast_inference", "reload", *model, "--run-dir", str(server.run_dir)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    lines = [line for line in done.stderr.splitlines(keepends=True) if not line.startswith("the new engine core ")]
    return done.returncode, done.stdout, "".join(lines)


def test_each_core_is_found_under_its_name(server: Server):
    status = server.status
    assert [core["name"] for core in status["cores"]] == ["0", "1"]
    assert status["core"] == status["cores"][0]
    num_blocks = []
    for address, core in zip(read_cores(RunDir(server.run_dir)).values(), status["cores"], strict=True):
        with SyncEngineClient(address, name="test") as client:
            welcome = client.wait_ready(READY_TIMEOUT_S)
            assert (welcome.core_pid, welcome.epoch) == (core["pid"], core["epoch"])
            num_blocks.append(welcome.num_blocks)
    assert num_blocks == [server.num_blocks / 2] * 2


def test_the_status_of_people_has_a_line_for_each_core(server: Server):
    argv = [sys.executable, "-m", "fast_inference", "status", "--run-dir", str(server.run_dir)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("engine core")]
    assert [(line[2], line[3], int(line[4])) for line in lines] == [
        (core["name"], "ready", core["pid"]) for core in server.status["cores"]
    ]


@pytest.mark.parametrize("index", [0, 1])
def test_a_core_that_dies_comes_back_and_the_other_serves(server: Server, index: int):
    before = server.status["cores"]
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(complete, server, 30) for _ in range(8)]
        os.kill(before[index]["pid"], signal.SIGKILL)
        assert {answer.result().status_code for answer in answers} == {200}
    wait_until(lambda: are_ready(server))
    after = server.status["cores"]
    assert server.status["state"] == "ready"
    assert after[1 - index] == before[1 - index]
    assert (after[index]["last_exit"], after[index]["restarts"]) == ("was killed by SIGKILL", {"signal": 1})
    assert not is_running(before[index]["pid"])


def test_a_reload_replaces_one_core_after_the_other(server: Server):
    before = core_pids(server)
    status, stdout, stderr = reload(server)
    after = core_pids(server)
    assert status == 0, stderr
    assert (
        stdout
        == f"reloaded: the same model, engine cores {after[0]}, {after[1]} in place of {before[0]}, {before[1]}\n"
    )
    assert not set(before) & set(after)
    assert not any(map(is_running, before))
    assert complete(server).status_code == 200


@pytest.fixture
def blocked_core(server: Server) -> Iterator[str]:
    """The second core can have no new process; the start of the reason."""
    run_dir = RunDir(server.run_dir).of_core(1)
    slot = 1 if os.readlink(run_dir.core_socket) == "core-0.sock" else 0
    lock = run_dir.lock_core(slot)
    yield f"error: another core runs on {run_dir.path}"
    os.close(lock)


def test_a_reload_that_fails_at_the_second_core_leaves_the_first_one_replaced(server: Server, blocked_core: str):
    before = core_pids(server)
    assert reload(server) == (1, "", f"{blocked_core}\n")
    after = core_pids(server)
    assert (after[0] != before[0], after[1]) == (True, before[1])
    assert complete(server).status_code == 200


def test_with_another_model_the_first_one_goes_back(server: Server, blocked_core: str):
    before, config = core_pids(server), json.loads((server.run_dir / "config.json").read_text())
    assert reload(server, "fake") == (1, "", f"{blocked_core}\n")
    assert "the reload failed at core 1" in server.stderr
    assert server.stderr.count("takes the place of") >= 2
    assert core_pids(server)[1] == before[1]
    assert json.loads((server.run_dir / "config.json").read_text()) == config
    wait_until(lambda: are_ready(server))
    assert complete(server).status_code == 200


def test_a_drain_lets_all_cores_finish_and_leaves_no_file(mortal_server: Server):
    server, pids = mortal_server, core_pids(mortal_server)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(complete, server, 100, f"number {number}") for number in range(8)]
        wait_until(lambda: all(counts := num_running(server)) and sum(counts) == 8)
        server.process.terminate()
        assert {answer.result().status_code for answer in answers} == {200}
    assert server.process.wait(10) == 0
    assert not any(map(is_running, pids))
    assert set(os.listdir(server.run_dir)) == {".fast-inference", "status.json"}
    assert [(core["pid"], core["state"]) for core in server.status["cores"]] == [(None, "stopped")] * 2


def num_running(server: Server) -> list[Any]:
    """Requests of each core."""
    counts = []
    for address in read_cores(RunDir(server.run_dir)).values():
        with SyncEngineClient(address, name="test") as client:
            client.wait_ready(READY_TIMEOUT_S)
            counts.append(stats(client)["num_running"])
    return counts


def test_a_crash_loop_of_one_core_ends_the_server_only_when_there_is_no_other(mortal_server: Server):
    server, healthy = mortal_server, core_pids(mortal_server)[0]
    kill_again_and_again(server, 1, lambda: server.status["cores"][1]["state"] == "failed")
    assert "engine core 1 has failed: engine core 1 crashed 5 times in 60 s; the other cores serve on" in server.stderr
    assert (server.status["state"], core_pids(server)[0]) == ("ready", healthy)
    assert complete(server).status_code == 200
    kill_again_and_again(server, 0, lambda: server.process.poll() is not None)
    assert server.process.wait(10) == 1
    assert server.errors == ["error: engine core 0 crashed 5 times in 60 s"]


def kill_again_and_again(server: Server, index: int, is_over: Any) -> None:
    killed: set[int | None] = {None}

    def kill_next() -> bool:
        if is_over():
            return True
        pid = core_pids(server)[index]
        if pid not in killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        return False

    wait_until(kill_next, timeout_s=30)
    assert len(killed) == 1 + 5


def test_what_keeps_all_cores_from_starting_is_said_once(tmp_path: Path):
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    run_dir.cores_dir.mkdir()
    run_dir.of_core(1).create()
    locks = [run_dir.of_core(index).lock_core(0) for index in (0, 1)]
    server = StartingServer(tmp_path, "fake", *FLAGS)
    try:
        assert server.process.wait(20) == 1
        [error] = server.errors
        assert error.startswith(f"error: another core runs on {run_dir.path}")
    finally:
        server.close()
        for lock in locks:
            os.close(lock)


@pytest.mark.model
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_cores_with_a_real_model_have_their_own_cpus_and_equal_caches(smollm2_dir: Path, tmp_path: Path):
    server = Server(tmp_path, str(smollm2_dir), "--cores", "2", "--frontends", "1")
    try:
        sets = [os.sched_getaffinity(pid) for pid in core_pids(server)]
        assert not sets[0] & sets[1]
        assert sets[0] | sets[1] == os.sched_getaffinity(0)
        num_blocks = []
        for address in read_cores(RunDir(server.run_dir)).values():
            with SyncEngineClient(address, name="test") as client:
                num_blocks.append(client.wait_ready(READY_TIMEOUT_S).num_blocks)
        assert num_blocks == [server.num_blocks / 2] * 2
    finally:
        server.close()
