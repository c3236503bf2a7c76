"""Python programs that serve on a port of this machine, started and ended by a test."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Program:
    """A Python program that serves on a port of this machine, with a temp dir of its own."""

    def __init__(self, folder: Path, port: int, *argv: str, **environment: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._short_dir = tempfile.TemporaryDirectory()  # the path of a socket must not be long
        self.temp_dir = Path(self._short_dir.name)
        environment = {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.temp_dir), **environment}
        self._log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, *argv], env={**os.environ, **environment}, stdout=self._log, stderr=subprocess.STDOUT
        )

    def wait_ready(self) -> None:
        wait_until(lambda: self.health() == 200 or self.process.poll() is not None, timeout_s=60)
        assert self.process.poll() is None, self.log

    def health(self) -> int:
        """The status of /health; 0 while nobody listens."""
        try:
            return httpx.get(f"{self.url}/health").status_code
        except httpx.TransportError:
            return 0

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    @property
    def child_pids(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def end(self) -> int:
        """End it as Ctrl-C does; returns its exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)

    def close(self) -> None:
        """Kill it if it still runs, and forget its files."""
        self.process.kill()
        self.process.wait()
        self._log.close()
        self._short_dir.cleanup()


@contextmanager
def running(folder: Path, port: int, *argv: str, **environment: str) -> Iterator[Program]:
    program = Program(folder, port, *argv, **environment)
    try:
        yield program
    finally:
        program.close()
