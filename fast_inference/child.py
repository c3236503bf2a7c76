"""One process that the launcher started: the engine core or a frontend.

Owns the process, the pidfd that tells of its death and the pipe on which it may say that it is ready. Created by
`launcher.py`, which decides what a death means.
Invariant: a `Child` that exists has been started, and once `exited` is set it has been reaped.

Every child runs in a session of its own, so that Ctrl-C in a terminal reaches the launcher alone, and has the kernel
kill it when the launcher dies (`ipc.process.die_with_parent`).
"""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fast_inference.flags import environment_name
from fast_inference.service_notify import SERVICE_VARIABLES
from ipc.config import SECRET_SETTINGS
from ipc.process import LAUNCHER_PID_VARIABLE

log = logging.getLogger(__name__)

FRONTEND_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Of processes that tokenize beside each other."""
READY_MESSAGE = b"ready\n"
_SECRET_VARIABLES = frozenset(map(environment_name, SECRET_SETTINGS))
_CODE_ROOT = Path(__file__).resolve().parents[1]


class Child:
    """A started process; use it from the event loop that created it."""

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        *,
        inherited_fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        says_ready: bool = False,
    ) -> None:
        """Start `python -m module arguments`, with `--ready-fd N` appended if it `says_ready`.

        Raises:
            OSError: it cannot be started.
        """
        self.name = name
        self.exited = asyncio.Event()
        self.ready = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._ready_fd: int | None = None
        argv = [sys.executable, "-P", "-m", module, *arguments]
        inherited_fds = [*inherited_fds]
        if says_ready:
            self._ready_fd, write_fd = os.pipe()
            argv += ["--ready-fd", str(write_fd)]
            inherited_fds.append(write_fd)
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),  # our stdout carries the ready line and nothing else
                env=child_environment(environment),
                pass_fds=inherited_fds,
                start_new_session=True,
            )
        except OSError:
            self._close_ready_pipe()
            raise
        finally:
            if says_ready:
                os.close(write_fd)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._pidfd, self._on_exit)
        if self._ready_fd is not None:
            self._loop.add_reader(self._ready_fd, self._on_ready_message)

    @property
    def pid(self) -> int:
        """Its process id; may be reused by others once `exited` is set."""
        return self._process.pid

    @property
    def exit_code(self) -> int:
        """Exit status, or minus the number of the signal that killed it; only once `exited` is set."""
        assert self._process.returncode is not None
        return self._process.returncode

    @property
    def exit_text(self) -> str:
        """How it ended, for people."""
        if self.exit_code < 0:
            return f"was killed by {signal.Signals(-self.exit_code).name}"
        return f"exited with status {self.exit_code}"

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless it has ended."""
        self._process.send_signal(signum)

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end; False if it still runs after the time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.exited.wait()
        except TimeoutError:
            return False
        return True

    async def wait_ready(self) -> bool:
        """Wait until it says that it is ready; False if it ends without having said so."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self.ready, self.exited)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self.ready.is_set()

    def kill(self) -> None:
        """Kill and reap it at once, blocking for as long as the kernel takes; for the very end."""
        if not self.exited.is_set():
            self._process.kill()
            self._on_exit()

    def _on_exit(self) -> None:
        self._process.wait()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._close_ready_pipe()
        self.exited.set()

    def _on_ready_message(self) -> None:
        assert self._ready_fd is not None
        if os.read(self._ready_fd, 64) == READY_MESSAGE:
            self.ready.set()
        self._close_ready_pipe()

    def _close_ready_pipe(self) -> None:
        if self._ready_fd is not None:
            self._loop.remove_reader(self._ready_fd)
            os.close(self._ready_fd)
            self._ready_fd = None


async def stop_children(children: Sequence[Child], timeout_s: float) -> None:
    """Send SIGTERM to all, and kill those that still run after the time."""
    for child in children:
        child.send_signal(signal.SIGTERM)
    for child, has_ended in zip(
        children, await asyncio.gather(*(child.wait(timeout_s) for child in children)), strict=True
    ):
        if not has_ended:
            log.warning("%s (pid %d) did not stop in %.0f s; killed", child.name, child.pid, timeout_s)
            child.kill()


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours, unbuffered, with the launcher's pid; in a checkout also with the folder of the packages.

    It has no keys, and no way to the service manager, who listens to the launcher alone. Children run with `-P`, so
    that a folder `frontend` in the user's working directory is never taken for ours.
    """
    withheld = _SECRET_VARIABLES | SERVICE_VARIABLES
    ours = {name: value for name, value in os.environ.items() if name.upper() not in withheld}
    environment = {**ours, "PYTHONUNBUFFERED": "1", LAUNCHER_PID_VARIABLE: str(os.getpid()), **(extra or {})}
    if (_CODE_ROOT / "pyproject.toml").is_file():
        paths = [str(_CODE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment
