"""What a service manager hears of a server: on real datagram sockets, from the notifier alone and from a launcher."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from fast_inference.child import child_environment
from fast_inference.service_notify import SERVICE_VARIABLES, ServiceNotifier
from fast_inference.status import (
    CoreStatus,
    FrontendStatus,
    LauncherStatus,
    ReloadState,
    ReloadStatus,
    ServerState,
    Status,
)
from tests.servers import ROOT, StartingServer

STATUS = Status(
    ServerState.READY, LauncherStatus(1), CoreStatus(2, 7, "ready"), (FrontendStatus(3, 80, "ready"),), "http://h:80"
)
STARTING = replace(STATUS, state=ServerState.STARTING)


class Manager:
    """The socket of a service manager."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(20)

    def next(self) -> list[str]:
        """The lines of the next datagram."""
        return self._socket.recv(4096).decode().split("\n")

    def wait_for(self, line: str) -> list[str]:
        """All lines up to this one."""
        lines: list[str] = []
        deadline = time.monotonic() + 40
        while line not in lines:
            assert time.monotonic() < deadline, lines
            lines += self.next()
        return lines

    def waiting(self) -> list[str]:
        """All lines that have come by now."""
        lines: list[str] = []
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                lines += self.next()
        self._socket.settimeout(20)
        return lines

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager() -> Iterator[Manager]:
    with tempfile.TemporaryDirectory() as folder, closing(Manager(f"{folder}/notify")) as manager:
        yield manager


def notifier_of(manager: Manager, **variables: str) -> ServiceNotifier:
    return ServiceNotifier.from_environment({"NOTIFY_SOCKET": manager.address, **variables})


def test_a_datagram_holds_a_line_for_each_fact(manager):
    notifier_of(manager).send("READY=1", "STATUS=all is well")
    assert manager.next() == ["READY=1", "STATUS=all is well"]


def test_a_name_without_a_file_is_found_too():
    with closing(Manager(f"@fast-inference-test-{os.getpid()}")) as manager:
        notifier_of(manager).send("READY=1")
        assert manager.next() == ["READY=1"]


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_without_a_socket_that_we_know_nothing_is_sent(environment, caplog):
    notifier = ServiceNotifier.from_environment(environment)
    notifier.follow(STATUS, "")
    asyncio.run(notifier.run(lambda: True))  # returns at once
    assert caplog.text == ""


def test_a_manager_that_is_gone_is_logged_once_and_harms_nobody(tmp_path, caplog):
    notifier = ServiceNotifier(str(tmp_path / "absent"))
    notifier.send("READY=1")
    notifier.send("READY=1")
    assert caplog.text.count("does not listen") == 1


def test_what_a_busy_manager_did_not_take_is_told_again(manager):
    notifier = notifier_of(manager)
    while notifier.send("STATUS=until it takes no more"):
        pass
    notifier.follow(STATUS, "")
    assert "READY=1" not in manager.waiting()
    notifier.follow(STATUS, "")
    assert manager.waiting() == ["READY=1", "STATUS=ready: http://h:80, 1 of 1 frontends"]


def test_each_change_is_told_once(manager):
    notifier = notifier_of(manager)
    for status in (STARTING, STARTING, STATUS, STATUS, replace(STATUS, state=ServerState.DRAINING)):
        notifier.follow(status, "loading weights")
    assert manager.waiting() == [
        "STATUS=loading weights",
        "READY=1",
        "STATUS=ready: http://h:80, 1 of 1 frontends",
        "STOPPING=1",
        "STATUS=draining: what runs may end",
    ]


def test_a_core_that_dies_makes_the_service_neither_stop_nor_start(manager):
    notifier = notifier_of(manager)
    notifier.follow(STATUS, "")
    manager.waiting()
    core = CoreStatus(None, 7, "stopped", "was killed by SIGKILL")
    notifier.follow(replace(STATUS, state=ServerState.RESTARTING, core=core), "")
    notifier.follow(STATUS, "")
    assert manager.waiting() == [
        "STATUS=not ready: core stopped, 1 of 1 frontends; the core before was killed by SIGKILL",
        "STATUS=ready: http://h:80, 1 of 1 frontends",
    ]


def test_of_several_cores_it_says_how_many_are_ready(manager):
    notifier = notifier_of(manager)
    notifier.follow(replace(STATUS, cores=(CoreStatus(2, 7, "ready"), CoreStatus(4, 8, "failed", name="1"))), "")
    assert "STATUS=ready: http://h:80, 1 of 2 cores, 1 of 1 frontends" in manager.waiting()


@pytest.mark.parametrize("outcome", [ReloadState.DONE, ReloadState.FAILED])
def test_a_reload_begins_and_ends(manager, outcome):
    notifier = notifier_of(manager)
    notifier.follow(STATUS, "")
    manager.waiting()
    for state in (ReloadState.LOADING, ReloadState.RETIRING, outcome):
        notifier.follow(replace(STATUS, reload=ReloadStatus("id", state)), "")
    lines = manager.waiting()
    assert lines[0] == "RELOADING=1"
    assert lines[1].partition("=")[0] == "MONOTONIC_USEC"
    assert [line for line in lines if "=1" in line] == ["RELOADING=1", "READY=1"]


def test_a_reload_that_is_refused_during_the_start_does_not_say_that_all_is_ready(manager):
    notifier = notifier_of(manager)
    notifier.follow(STARTING, "")
    for state in (ReloadState.LOADING, ReloadState.FAILED):
        notifier.follow(replace(STARTING, reload=ReloadStatus("id", state)), "")
    assert not [line for line in manager.waiting() if "=1" in line]
    notifier.follow(STATUS, "")
    assert "READY=1" in manager.waiting()


def beats(notifier: ServiceNotifier, manager: Manager, *, is_healthy: bool) -> list[str]:
    """What is sent in three turns of the watchdog."""
    turns = iter(range(3))

    class Over(Exception):
        pass

    def answer() -> bool:
        if next(turns, None) is None:
            raise Over
        return is_healthy

    with suppress(Over):
        asyncio.run(notifier.run(answer))
    return manager.waiting()


def test_while_all_is_well_there_are_signs_of_life_at_half_the_interval(manager):
    notifier = notifier_of(manager, WATCHDOG_USEC="20000", WATCHDOG_PID=str(os.getpid()))
    notifier.follow(STATUS, "")
    manager.waiting()
    assert beats(notifier, manager, is_healthy=True) == ["WATCHDOG=1"] * 3


def test_a_server_that_is_not_well_gives_none(manager):
    notifier = notifier_of(manager, WATCHDOG_USEC="20000")
    notifier.follow(STATUS, "")
    manager.waiting()
    assert beats(notifier, manager, is_healthy=False) == []


@pytest.mark.parametrize("variables", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}])
def test_a_watchdog_that_is_not_ours_is_not_fed(manager, variables):
    notifier = notifier_of(manager, **variables)
    notifier.follow(STATUS, "")
    manager.waiting()

    async def first_turn() -> None:
        async with asyncio.timeout(0.01):
            await notifier.run(lambda: True)

    with pytest.raises(TimeoutError):
        asyncio.run(first_turn())
    assert manager.waiting() == []


def test_a_reload_that_takes_long_gets_more_time(manager):
    notifier = notifier_of(manager)
    notifier.follow(STATUS, "")
    notifier.follow(replace(STATUS, reload=ReloadStatus("id", ReloadState.LOADING)), "")
    manager.waiting()

    async def first_turn() -> None:
        async with asyncio.timeout(0.01):
            await notifier.run(lambda: True)

    with pytest.raises(TimeoutError):
        asyncio.run(first_turn())
    assert manager.waiting() == ["EXTEND_TIMEOUT_USEC=60000000"]


def test_a_start_that_waits_for_a_download_gets_more_time(manager):
    with notifier_of(manager).extending():
        assert manager.next() == ["EXTEND_TIMEOUT_USEC=60000000"]


def test_children_do_not_speak_for_the_server(monkeypatch):
    for name in SERVICE_VARIABLES:
        monkeypatch.setenv(name, "1")
    assert not SERVICE_VARIABLES & child_environment().keys()


def test_a_launcher_tells_its_whole_life(manager, tmp_path: Path):
    variables = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "4000000"}
    server = StartingServer(tmp_path, "fake", "--frontends", "1", **variables)
    try:
        lines = manager.wait_for("READY=1")
        url = server.wait_ready()[1]
        assert "EXTEND_TIMEOUT_USEC=60000000" in lines
        assert "STATUS=starting the frontends" in lines
        assert lines[-1] == f"STATUS=ready: {url}, 1 of 1 frontends"
        manager.wait_for("WATCHDOG=1")
        command = [sys.executable, "-m", "fast_inference", "reload", "--run-dir", str(server.run_dir)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=30)
        assert "RELOADING=1" in manager.wait_for("READY=1")
        server.process.send_signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        assert server.process.wait(20) == 0
    finally:
        server.close()
