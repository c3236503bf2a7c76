"""The launcher with real children and the fake model: ready, replaced, drained, and never left behind."""

import fcntl
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
READY_LINE = re.compile(r"^ready: (http://127\.0\.0\.1:\d+) \(model fake, 2 frontends, \d+ blocks\)$")


class Server:
    """`scripts/launch.py fake` in a run dir of its own."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.run_dir = folder / "run"
        decoy = folder / "frontend"  # must not be taken for our package
        decoy.mkdir(exist_ok=True)
        (decoy / "__init__.py").write_text("raise SystemExit('the wrong frontend')")
        self.stderr_file = folder / "stderr"
        argv = [sys.executable, str(ROOT / "scripts/launch.py"), "fake", "--run-dir", str(self.run_dir), *flags]
        with self.stderr_file.open("w") as stderr:
            self.process = subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, stderr=stderr, text=True)

    def wait_ready(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = READY_LINE.match(line)
        assert match, f"{line!r} {self.stderr_file.read_text()}"
        return match[1]

    @property
    def status(self) -> Any:
        return json.loads((self.run_dir / "status.json").read_text())

    @property
    def child_pids(self) -> list[int]:
        status = self.status
        return [child["pid"] for child in (status["core"], *status["frontends"]) if child["pid"]]

    @property
    def errors(self) -> list[str]:
        return [line for line in self.stderr_file.read_text().splitlines() if line.startswith("error: ")]

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start_server(*flags: str, folder: Path = tmp_path) -> Server:
        folder.mkdir(exist_ok=True)
        servers.append(Server(folder, *(flags or ("--port", "0"))))
        return servers[-1]

    yield start_server
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), "--port", "0")
    try:
        server.url = server.wait_ready()
        yield server
    finally:
        server.stop()


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


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
    assert wait_until(
        lambda: victim not in running.child_pids and running.status["frontends"][0]["state"] == "ready", 10
    )
    new_core, _, same_other = running.child_pids
    assert (new_core, same_other) == (core, other)


def test_a_killed_core_is_replaced_and_the_frontends_stay(running):
    before = running.status
    os.kill(before["core"]["pid"], signal.SIGKILL)
    assert wait_until(lambda: running.status["core"]["pid"] != before["core"]["pid"], 1)
    assert wait_until(lambda: running.status["state"] == "ready", 10)
    after = running.status
    assert after["core"]["epoch"] > before["core"]["epoch"]
    assert after["frontends"] == before["frontends"]


def test_a_second_launcher_on_the_run_dir_is_refused(running):
    argv = [sys.executable, "-m", "fast_inference", "serve", "fake", "--port", "0", "--run-dir", str(running.run_dir)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=10)
    assert done.returncode == 1
    assert done.stderr == f"error: another launcher runs on {running.run_dir}\n"
    assert running.status["state"] == "ready"


def test_a_taken_port_ends_in_less_than_two_seconds(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port, started = taken.getsockname()[1], time.monotonic()
        server = start("--port", str(port))
        assert server.process.wait(10) == 1
    assert time.monotonic() - started < 2
    assert server.errors == [f"error: port {port} on 127.0.0.1 is in use"]
    assert not server.run_dir.exists()


def test_sigterm_ends_everything_in_order(start):
    server = start()
    server.wait_ready()
    pids = server.child_pids
    server.process.terminate()
    assert server.process.wait(10) == 0
    assert not any(is_running(pid) for pid in pids)
    assert server.status["state"] == "stopped"
    assert not {"config.json", "core.sock", "core.lock", "launcher.lock"} & set(os.listdir(server.run_dir))


def test_sigterm_lets_a_running_request_finish(start):
    server = start("--port", "0", "--fake-step-ms", "50")
    url = server.wait_ready() + "/v1/completions"
    body = json.dumps({"model": "fake", "prompt": "a", "max_tokens": 30, "ignore_eos": True})
    argv = ["-c", "import sys, urllib.request as u; print(u.urlopen(u.Request(*sys.argv[1:2], sys.argv[2].encode(),"]
    argv[1] += " {'Content-Type': 'application/json'})).read().decode())"
    client = subprocess.Popen([sys.executable, *argv, url, body], stdout=subprocess.PIPE, text=True)
    time.sleep(0.8)
    server.process.terminate()
    answer = json.loads(client.communicate(timeout=10)[0])
    assert answer["usage"]["completion_tokens"] == 30
    assert server.process.wait(10) == 0


def test_a_second_signal_kills(start):
    server = start("--port", "0", "--fake-step-ms", "200")
    url = server.wait_ready()
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as client:
        body = b'{"model": "fake", "prompt": "a", "max_tokens": 300, "ignore_eos": true, "stream": true}'
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        client.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        assert b"200 OK" in client.recv(100)
        pids = server.child_pids
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(2) == 130
    assert not any(is_running(pid) for pid in pids)


def test_children_die_with_a_killed_launcher_and_the_port_is_free_again(start, tmp_path):
    server = start()
    port = server.wait_ready().rpartition(":")[2]
    pids = server.child_pids
    server.process.kill()
    again = start("--port", port)
    assert wait_until(lambda: not any(is_running(pid) for pid in pids), 2)
    assert again.wait_ready().endswith(f":{port}")


def test_a_core_that_cannot_start_ends_everything_with_its_one_line(start, tmp_path):
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "core.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server = start()
        assert server.process.wait(10) == 1
    assert server.errors == [f"error: another core runs on {server.run_dir}"]
    assert server.child_pids == []


def test_a_core_that_dies_before_it_was_ready_ends_everything(start):
    server = start("--port", "0", "--frontends", "1")
    status_file = server.run_dir / "status.json"
    assert wait_until(lambda: status_file.exists() and server.status["core"]["pid"], 10)
    os.kill(server.status["core"]["pid"], signal.SIGKILL)
    assert server.process.wait(10) == 1
    assert server.errors == ["error: the engine core was killed by SIGKILL before it was ready"]


def test_a_crash_loop_of_the_core_ends_everything(start):
    server = start("--port", "0")
    server.wait_ready()
    killed: set[int | None] = {None}
    while server.process.poll() is None and len(killed) < 10:
        pid = server.status["core"]["pid"]
        if pid not in killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        time.sleep(0.02)
    assert server.process.wait(10) == 1
    assert len(killed) == 1 + 5
    assert server.errors == ["error: the engine core crashed 5 times in 60 s"]
