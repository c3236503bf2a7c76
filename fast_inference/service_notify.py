"""Tells the service manager that started us how we are, in systemd's `sd_notify` protocol; nothing where there is none.

One datagram of `NAME=VALUE` lines goes to the socket that `NOTIFY_SOCKET` names (sd_notify(3)): READY, STATUS,
RELOADING, STOPPING, EXTEND_TIMEOUT_USEC while a model is got and loaded, WATCHDOG while all is well. Used by
`launcher.py` alone: children do not get the variables.
Invariant: a service manager that does not listen never harms the server; that is logged, once.
Next: `configs/systemd/fast-inference.service`.
"""

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from fast_inference.status import ReloadState, ServerState, Status

log = logging.getLogger(__name__)

SERVICE_VARIABLES = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
_SEND_TIMEOUT_S = 0.5
_EXTENSION_S = 60
_INTERVAL_S = 10.0
"""Between two extensions, and at most between two signs of life."""


class ServiceNotifier:
    """The way to the service manager."""

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        """`address` is a path, or `@NAME` for a name without a file; `watchdog_s` is how long we may be silent."""
        self._address = "\0" + address[1:] if address is not None and address.startswith("@") else address
        self._watchdog_s = watchdog_s
        self._state: ServerState | None = None
        self._is_reloading = False
        self._text = ""
        self._has_failed = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "ServiceNotifier":
        """What systemd says; a watchdog that was meant for another process is not ours."""
        address = environment.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return cls(None)
        watchdog_us, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
        is_watched = watchdog_us.isdigit() and int(watchdog_us) > 0 and pid == str(os.getpid())
        return cls(address, int(watchdog_us) / 1e6 if is_watched else None)

    def send(self, *lines: str) -> bool:
        """Send one datagram; False where nobody took it."""
        if self._address is None:
            return True
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
                connection.settimeout(_SEND_TIMEOUT_S)
                connection.sendto("\n".join(lines).encode(), self._address)
            return True
        except (OSError, ValueError) as error:
            if not self._has_failed:
                log.warning("the service manager does not listen on NOTIFY_SOCKET: %s", error)
            self._has_failed = True
            return False

    @contextmanager
    def extending(self) -> Iterator[None]:
        """While this process waits for others, such as a download: the time for the start is not over yet."""
        is_over = threading.Event()

        def extend() -> None:
            self._extend()
            while not is_over.wait(_INTERVAL_S):
                self._extend()

        if self._address is None:
            yield
            return
        thread = threading.Thread(target=extend, name="service-notify", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def follow(self, status: Status, stage: str) -> None:
        """Tell what has changed; `stage` is what the start is at.

        Called at every look at the server, so that what nobody took is told again at the next.
        """
        lines = []
        is_reloading = status.reload is not None and status.reload.state in (ReloadState.LOADING, ReloadState.RETIRING)
        is_reloading &= status.state is not ServerState.STARTING  # then it is refused
        if status.state is ServerState.DRAINING:
            if self._state is not ServerState.DRAINING:
                lines.append("STOPPING=1")
        elif is_reloading and not self._is_reloading:
            lines += ["RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"]
        elif self._becomes_ready(status.state) or (self._is_reloading and not is_reloading):
            lines.append("READY=1")
        text = _text(status, stage)
        if text != self._text:
            lines.append(f"STATUS={text}")
        if not lines or self.send(*lines):
            self._state, self._is_reloading, self._text = status.state, is_reloading, text

    async def run(self, is_healthy: Callable[[], bool]) -> None:
        """Ask for more time while it starts or reloads, and give signs of life while it is healthy; until cancelled."""
        if self._address is None:
            return
        interval_s = _INTERVAL_S if self._watchdog_s is None else min(self._watchdog_s / 2, _INTERVAL_S)
        while True:
            if self._state in (None, ServerState.STARTING) or self._is_reloading:
                self._extend()
            if self._watchdog_s is not None and is_healthy():
                self.send("WATCHDOG=1")
            await asyncio.sleep(interval_s)

    def _extend(self) -> None:
        self.send(f"EXTEND_TIMEOUT_USEC={_EXTENSION_S * 1_000_000}")

    def _becomes_ready(self, state: ServerState) -> bool:
        """For the first time: a core that is restarted later does not make the service start anew."""
        return state is ServerState.READY and self._state in (None, ServerState.STARTING)


def _text(status: Status, stage: str) -> str:
    """One line for `systemctl status`."""
    core, num_ready = status.core, sum(frontend.state == "ready" for frontend in status.frontends)
    frontends = f"{num_ready} of {len(status.frontends)} frontends"
    last_exit = f"; the core before {core.last_exit}" if core.last_exit else ""
    cores = ""
    if len(status.cores) > 1:
        cores = f"{sum(core.state == 'ready' for core in status.cores)} of {len(status.cores)} cores, "
    text = {
        ServerState.STARTING: stage,
        ServerState.READY: f"ready: {status.url}, {cores}{frontends}",
        ServerState.RESTARTING: f"not ready: {cores or f'core {core.state}, '}{frontends}{last_exit}",
        ServerState.DRAINING: "draining: what runs may end",
        ServerState.STOPPED: "stopped",
    }[status.state]
    if status.reload is not None and status.reload.state is ReloadState.LOADING:
        text += "; another core loads"
    elif status.reload is not None and status.reload.state is ReloadState.RETIRING:
        text += "; the core before retires"
    return " ".join(text.split())
