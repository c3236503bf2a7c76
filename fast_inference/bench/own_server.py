"""A server for the length of one benchmark, started with the launcher on a free port and stopped in the end.

Called by `commands.py` where no URL is given, and by scripts that look at its processes too. Invariant: when the
context is left the server is gone, and the kernel kills it if this process dies.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fast_inference.child import child_environment
from fast_inference.ready_message import url_in_ready_line
from ipc.endpoints import RunDir
from ipc.errors import ConfigError
from ipc.process import die_with_parent

_STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class OwnServer:
    """A server that is ready."""

    url: str
    """Base URL."""
    run_dir: RunDir

    def status(self) -> dict[str, Any]:
        """What `status.json` says now."""
        status: dict[str, Any] = json.loads(self.run_dir.status_file.read_text())
        return status

    @property
    def launcher_pid(self) -> int:
        """Of the launcher."""
        pid: int = self.status()["launcher"]["pid"]
        return pid

    @property
    def core_pid(self) -> int | None:
        """Of the engine core; None while there is none."""
        pid: int | None = self.status()["core"]["pid"]
        return pid

    @property
    def frontend_pids(self) -> list[int | None]:
        """Of each frontend; None for one that is being replaced."""
        return [frontend["pid"] for frontend in self.status()["frontends"]]

    @property
    def frontend_ports(self) -> list[int]:
        """Of each frontend; all the same without `--frontend-ports`."""
        return [frontend["port"] for frontend in self.status()["frontends"]]


@contextlib.contextmanager
def own_server(flags: Sequence[str]) -> Iterator[OwnServer]:
    """Run `fast-inference serve` with these arguments; gives it once it is ready.

    Raises:
        ConfigError: it was killed before it was ready.
        SystemExit: it could not start, with its exit status; it has said why on stderr.
    """
    with tempfile.TemporaryDirectory(prefix="fast-inference-bench-") as folder:
        run_dir = RunDir(Path(folder) / "run")
        command = [sys.executable, "-P", "-m", "fast_inference", "serve", "--port", "0"]
        command += ["--run-dir", str(run_dir.path), "--log-level", "warning", *flags]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=child_environment(),
            start_new_session=True,
            preexec_fn=die_with_parent,
            text=True,
        )
        try:
            assert process.stdout is not None
            url = url_in_ready_line(process.stdout.readline())
            if url is None:
                if (status := process.wait()) > 0:
                    raise SystemExit(status)
                raise ConfigError("the server ended before it was ready")
            yield OwnServer(url, run_dir)
        finally:
            process.terminate()
            try:
                process.communicate(timeout=_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
