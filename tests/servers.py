"""A whole server for tests: launcher, frontends and core as real processes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import openai

from ipc.sync_client import SyncEngineClient

ROOT = Path(__file__).parents[1]
READY_LINE = re.compile(r"^ready: (http://127\.0\.0\.1:\d+) \(model ([^ ,]+), (\d+) frontends?, (\d+) blocks\)$")


class Server:
    """`python -m fast_inference serve MODEL` on a free port, with a run dir of its own."""

    def __init__(self, folder: Path, model: str, *flags: str) -> None:
        self.run_dir = folder / "run"
        self.stderr_file = folder / "stderr"
        command = [
            sys.executable,
            "-m",
            "fast_inference",
            "serve",
            model,
            "--port",
            "0",
            "--run-dir",
            str(self.run_dir),
        ]
        with self.stderr_file.open("w") as stderr:
            self.process = subprocess.Popen(
                [*command, *flags], cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().rstrip("\n")
        match = READY_LINE.match(line)
        if match is None:
            self.close()
            raise AssertionError(f"no ready line but {line!r}; stderr: {self.stderr_file.read_text()}")
        self.url, self.num_blocks = match[1], int(match[4])

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
        return [line for line in self.stderr_file.read_text().splitlines() if " frontend.access: " in line]

    def close(self) -> None:
        """Stop in order; kill what does not stop."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()
