"""`fast-inference reload` with real processes: the core is replaced, or everything stays as it was."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from fast_inference.core_reload import ReloadRequest
from ipc.endpoints import RunDir
from ipc.sync_client import SyncEngineClient
from tests.factories import make_params
from tests.processes import READY_TIMEOUT_S
from tests.servers import ROOT, Server, all_gone, is_running
from tests.waiting import wait_until

FLAGS = ("--frontends", "1", "--fake-step-ms", "20")


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


def begin_reload(run_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "fast_inference", "reload", *arguments, "--run-dir", str(run_dir)]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(command: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, stdout, and stderr without the stages of the wait."""
    stdout, stderr = command.communicate(timeout=30)
    lines = [line for line in stderr.splitlines(keepends=True) if not line.startswith("the new engine core ")]
    return command.returncode, stdout, "".join(lines)


def serves(server: Server) -> bool:
    body = {"model": "fake", "prompt": "a", "max_tokens": 1}
    return httpx.post(f"{server.url}/v1/completions", json=body, timeout=20).status_code == 200


def standby_pids(server: Server) -> list[int]:
    """Cores that were started to take the place of the active one, and have not."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    standby = [int(pid) for pid in children if b"--standby" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return [pid for pid in standby if pid != server.core_pid]


@contextmanager
def stopped_standby(server: Server) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A reload whose new core does not get on, until the context ends; it waits for its lock when it is stopped."""
    run_dir = RunDir(server.run_dir)
    lock = run_dir.lock_core(1 if os.readlink(run_dir.core_socket) == "core-0.sock" else 0)
    command = begin_reload(server.run_dir)
    wait_until(lambda: standby_pids(server))
    [pid] = standby_pids(server)
    os.kill(pid, signal.SIGSTOP)
    os.close(lock)
    try:
        yield command, pid
    finally:
        if is_running(pid):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("model", [[], ["fake"]])
def test_the_core_is_replaced_and_the_frontends_stay(server: Server, model: list[str]):
    before = server.status
    slot = os.readlink(server.run_dir / "core.sock")
    status, stdout, stderr = outcome(begin_reload(server.run_dir, *model))
    after = server.status
    described = "model fake" if model else "the same model"
    pids = before["core"]["pid"], after["core"]["pid"]
    assert (status, stdout) == (0, f"reloaded: {described}, engine core {pids[1]} in place of {pids[0]}\n"), stderr
    assert not is_running(pids[0])
    assert after["core"]["epoch"] > before["core"]["epoch"]
    assert (after["core"]["state"], after["reload"]["state"]) == ("ready", "done")
    assert after["frontends"] == before["frontends"]
    assert os.readlink(server.run_dir / "core.sock") != slot
    wait_until(lambda: serves(server))


def test_what_runs_is_finished_by_the_old_core_while_the_new_one_serves(server: Server):
    pid, run_dir = server.core_pid, RunDir(server.run_dir)
    old_socket = server.run_dir / os.readlink(run_dir.core_socket)
    with SyncEngineClient(old_socket, name="old") as old:
        old.wait_ready(READY_TIMEOUT_S)
        request = old.submit([1], make_params(max_tokens=100))
        old.wait(0.1)
        command = begin_reload(server.run_dir)
        wait_until(lambda: old.wait(0.05) is not None and server.core_pid != pid)
        with SyncEngineClient(run_dir.core_socket, name="new") as new:
            assert new.wait_ready(READY_TIMEOUT_S).core_pid == server.core_pid
            assert new.generate([1], make_params()).finished is not None
        assert is_running(pid)
        assert len(old.collect(request).token_ids) == 100
    assert outcome(command)[0] == 0


def test_a_model_that_is_not_there_changes_nothing(server: Server):
    before = server.status
    status, stdout, stderr = outcome(begin_reload(server.run_dir, "/no/such/model"))
    assert (status, stdout) == (1, "")
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert server.status == before


def test_a_new_core_that_cannot_start_leaves_the_old_one(server: Server):
    pid, config = server.core_pid, (server.run_dir / "config.json").read_text()
    ReloadRequest("mine", "other", "/no/such/model").write(RunDir(server.run_dir))
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.status["reload"]["id"] == "mine" and server.status["reload"]["state"] == "failed")
    reason = server.status["reload"]["reason"]
    assert "/no/such/model" in reason
    assert f"the reload failed: {reason}" in server.stderr
    assert server.core_pid == pid
    assert (server.run_dir / "config.json").read_text() == config
    assert not set(os.listdir(server.run_dir)) & {"config-standby.json", "standby.error", "reload.json"}
    assert serves(server)


def test_a_new_core_that_dies_while_it_loads_leaves_the_old_one(server: Server):
    pid = server.core_pid
    with stopped_standby(server) as (command, standby):
        os.kill(standby, signal.SIGKILL)
        status, _, stderr = outcome(command)
    assert (status, stderr) == (1, "error: the new engine core was killed by SIGKILL before it was ready\n")
    assert server.core_pid == pid
    assert serves(server)


def test_the_old_core_may_die_while_the_new_one_loads_and_nobody_else_may_reload(server: Server):
    pid = server.core_pid
    with stopped_standby(server) as (command, standby):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: server.core_pid != pid and server.status["state"] == "ready")
        status, _, stderr = outcome(begin_reload(server.run_dir))
        assert (status, stderr) == (1, f"error: another reload runs on {server.run_dir}\n")
    assert outcome(command)[0] == 0
    assert server.core_pid == standby
    wait_until(lambda: serves(server))


def test_the_new_core_may_die_while_the_old_one_retires(server: Server):
    pid, old_socket = server.core_pid, server.run_dir / os.readlink(server.run_dir / "core.sock")
    with SyncEngineClient(old_socket, name="old") as old:
        old.wait_ready(READY_TIMEOUT_S)
        old.submit([1], make_params(max_tokens=4000))
        old.wait(0.1)
        command = begin_reload(server.run_dir)
        wait_until(lambda: old.wait(0.05) is not None and server.core_pid != pid)
        new_pid = server.core_pid
        os.kill(new_pid, signal.SIGKILL)
        wait_until(lambda: old.wait(0.05) is not None and server.core_pid not in (None, new_pid))
    assert outcome(command)[0] == 0
    wait_until(all_gone([pid]))
    wait_until(lambda: server.status["state"] == "ready" and serves(server))


def test_sigterm_during_a_reload_ends_both_cores(mortal_server: Server):
    server = mortal_server
    with stopped_standby(server) as (command, standby):
        pids = [*server.child_pids, standby]
        server.process.terminate()
        os.kill(standby, signal.SIGCONT)
        assert server.process.wait(10) == 0
        status, _, stderr = outcome(command)
    assert (status, stderr.count("\n")) == (1, 1)
    assert not any(is_running(pid) for pid in pids)
    assert set(os.listdir(server.run_dir)) == {".fast-inference", "status.json"}


def test_where_no_server_runs_it_says_so(tmp_path: Path):
    status, _, stderr = outcome(begin_reload(tmp_path))
    assert (status, stderr) == (1, f"error: no server runs on {tmp_path}: start one with `fast-inference serve`\n")
