"""A whole server for tests: launcher, frontends and core as real processes."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai

from ipc.sync_client import SyncEngineClient

ROOT = Path(__file__).parents[1]
READY_LINE = re.compile(
    r"^ready: (http://127\.0\.0\.1:\d+) \(model ([^ ,]+), (?:\d+ cores, )?(\d+) frontends?, (\d+) blocks\)$"
)


def is_running(pid: int) -> bool:
    """True if there is such a process and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def all_gone(pids: list[int]) -> Callable[[], bool]:
    """A condition for `wait_until`."""
    return lambda: not any(is_running(pid) for pid in pids)


class StartingServer:
    """`scripts/launch.py MODEL` on a free port, with a run dir of its own; nobody waits until it is ready.

    Its working directory holds a package of the name of one of ours, which must not be taken for it.
    """

    def __init__(self, folder: Path, model: str, *flags: str, **environment: str) -> None:
        self.run_dir = folder / "run"
        self.stderr_file = folder / "stderr"
        for name in ("frontend", "fast_inference"):
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
        command = [sys.executable, str(ROOT / "scripts/launch.py"), model, "--port", "0"]
        command += ["--run-dir", str(self.run_dir), *flags]
        self._start(command, folder, environment)

    preexec_fn: Callable[[], None] | None = None
    """What its process does before it becomes the server; for subclasses."""

    def _start(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        env = {**os.environ, **environment}
        with self.stderr_file.open("w") as stderr:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=env,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                preexec_fn=type(self).preexec_fn,
            )

    def wait_ready(self) -> re.Match[str]:
        """Read the ready line; its groups are url, model, number of frontends, number of blocks."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().rstrip("\n")
        match = READY_LINE.match(line)
        if match is None:
            self.close()
            raise AssertionError(f"no ready line but {line!r}; stderr: {self.stderr}")
        return match

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text()

    @property
    def errors(self) -> list[str]:
        """The lines that tell people what is wrong."""
        return [line for line in self.stderr.splitlines() if line.startswith("error: ")]

    @property
    def status(self) -> Any:
        """What the launcher says about its children."""
        return json.loads((self.run_dir / "status.json").read_text())

    @property
    def frontend_pids(self) -> list[int]:
        return [frontend["pid"] for frontend in self.status["frontends"]]

    @property
    def core_pid(self) -> int:
        pid: int = self.status["core"]["pid"]
        return pid

    @property
    def child_pids(self) -> list[int]:
        """Core and frontends, as far as they run."""
        return [pid for pid in (self.core_pid, *self.frontend_pids) if pid]

    @property
    def has_core(self) -> bool:
        """True once the status names a core."""
        return (self.run_dir / "status.json").exists() and bool(self.core_pid)

    def close(self) -> None:
        """Stop in order; kill what does not stop."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()


class Server(StartingServer):
    """The same, ready."""

    def __init__(self, folder: Path, model: str, *flags: str, **environment: str) -> None:
        super().__init__(folder, model, *flags, **environment)
        match = self.wait_ready()
        self.url, self.num_blocks = match[1], int(match[4])

    def openai(self) -> openai.OpenAI:
        """The real client; it does not retry, so that failures show."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="dummy", max_retries=0, timeout=60)

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)

    def connect(self) -> SyncEngineClient:
        """A client of the core behind the frontends; a context manager."""
        client = SyncEngineClient(self.run_dir / "core.sock", name="test")
        client.wait_ready(10)
        return client

    def access_lines(self) -> list[str]:
        """Access log lines of all frontends."""
        return [line for line in self.stderr.splitlines() if " frontend.access: " in line]
