"""Real processes for tests: an engine core with the fake model, started and ended by the test."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ipc.endpoints import RunDir
from ipc.messages import CallMethod
from ipc.process import LAUNCHER_PID_VARIABLE
from ipc.sync_client import SyncEngineClient

READY_TIMEOUT_S = 20


class CoreProcess:
    """One `python -m engine_core`, or another command that takes its flags, on a run dir."""

    def __init__(self, folder: Path, *, command: Sequence[str] = ("-m", "engine_core"), **settings) -> None:
        self._command = [sys.executable, *command]
        self.run_dir = RunDir(folder)
        self.run_dir.create()
        config = {"model": "fake", "num_blocks": 64, "log_level": "warning", **settings}
        self.run_dir.config_file.write_text(json.dumps(config))
        self._exits = ExitStack()
        self.start()

    def start(self) -> None:
        command = [*self._command, "--config", str(self.run_dir.config_file)]
        environment = {key: value for key, value in os.environ.items() if key != LAUNCHER_PID_VARIABLE}
        with self.stderr_file.open("a") as stderr:
            self.process = subprocess.Popen(command, stderr=stderr, env=environment)

    @property
    def stderr_file(self) -> Path:
        return self.run_dir.path / "core.stderr"

    def connect(self, name: str = "test") -> SyncEngineClient:
        """A welcomed client; closed with the core."""
        client = self._exits.enter_context(SyncEngineClient(self.run_dir.core_socket, name=name))
        client.wait_ready(READY_TIMEOUT_S)
        return client

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._exits.close()
        self.process.kill()
        self.process.wait()


@contextmanager
def core_process(folder: Path, *, command: Sequence[str] = ("-m", "engine_core"), **settings):
    core = CoreProcess(folder, command=command, **settings)
    try:
        yield core
    finally:
        core.close()


def stats(client: SyncEngineClient) -> dict[str, int | float | str]:
    return client.call(CallMethod.STATS)


def cpu_seconds(pid: int) -> float:
    """Processor time by the scheduler's own count, in nanosecond resolution."""
    return sum(int((task / "schedstat").read_text().split()[0]) / 1e9 for task in Path(f"/proc/{pid}/task").iterdir())
