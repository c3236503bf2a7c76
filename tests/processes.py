"""Real processes for tests: an engine core with the fake model, started and ended by the test; interrupted programs."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ipc.core_directory import write_cores
from ipc.endpoints import RunDir
from ipc.messages import CallMethod
from ipc.process import LAUNCHER_PID_VARIABLE
from ipc.sync_client import SyncEngineClient

READY_TIMEOUT_S = 20
ROOT = Path(__file__).parents[1]


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


@contextmanager
def core_processes(folder: Path, count: int = 2, **settings):
    """So many cores of one server, without a launcher: those of the run dir in `folder`, where they are listed."""
    run_dir = RunDir(folder)
    with ExitStack() as exits:
        folders = [run_dir.of_core(index).path for index in range(count)]
        cores = [exits.enter_context(core_process(path, **settings)) for path in folders]
        write_cores(run_dir, {str(index): core.run_dir.core_socket for index, core in enumerate(cores)})
        yield cores


def stats(client: SyncEngineClient) -> dict[str, int | float | str]:
    return client.call(CallMethod.STATS)


def cpu_seconds(pid: int) -> float:
    """Processor time by the scheduler's own count, in nanosecond resolution."""
    return sum(int((task / "schedstat").read_text().split()[0]) / 1e9 for task in Path(f"/proc/{pid}/task").iterdir())


class InterruptedProgram:
    """What became of a Python program that got SIGINT as soon as it had printed "started"."""

    def __init__(self, program: str) -> None:
        # a shell's background jobs ignore the signal, and what they start too
        take_it = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        with tempfile.TemporaryDirectory() as folder:  # of a short name, as paths of sockets are
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": folder}
            command = [sys.executable, "-c", take_it + program]
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "started\n"
                process.send_signal(signal.SIGINT)
                _, self.stderr = process.communicate(timeout=20)
            finally:
                process.kill()
                process.communicate()
            self.exit_code = process.returncode
            self.left_over = os.listdir(folder)

    def check_ended_and_left_nothing(self) -> None:
        assert self.exit_code in (-signal.SIGINT, 128 + signal.SIGINT)
        assert "\nKeyboardInterrupt\n" in self.stderr
        assert self.left_over == []
