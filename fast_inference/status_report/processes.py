"""The processes of a server: what the launcher says of them in `status.json`, and what the kernel does."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fast_inference.bench.process_sizes import resident_bytes
from ipc.core_directory import ONLY_CORE
from ipc.process import start_ticks

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One process."""

    name: str
    state: str
    pid: int | None = None
    """None while it does not run."""
    uptime_s: float | None = None
    rss_bytes: int | None = None
    num_restarts: int | None = None
    """Since the server started; None for the launcher, which nobody starts again."""
    port: int | None = None
    """Of a frontend."""


def process_rows(status: Mapping[str, Any], local_cores: Collection[str] = (ONLY_CORE,)) -> list[ProcessRow]:
    """A row for each process that `status.json` names; one that never ran and need not is left out.

    Of a core that is not among `local_cores` the kernel here knows nothing: its pid is that of another machine.
    """
    restarts = status.get("restarts") or {}
    launcher_state = "stopped" if status["state"] == "stopped" else "running"
    rows = [_row("launcher", launcher_state, status["launcher"]["pid"], None)]
    cores = status.get("cores") or [status["core"]]
    for core in cores:
        name = "engine core" if len(cores) == 1 else f"engine core {core['name']}"
        row = _row(name, core["state"], core["pid"], sum(core.get("restarts", {}).values()))
        is_here = core.get("name", ONLY_CORE) in local_cores
        rows.append(row if is_here else replace(row, uptime_s=None, rss_bytes=None))
    counts = restarts.get("frontends", ())
    for index, frontend in enumerate(status["frontends"]):
        count = counts[index] if index < len(counts) else 0
        rows.append(_row(f"frontend {index}", frontend["state"], frontend["pid"], count, frontend["port"]))
    runner = status.get("batch_runner") or {}
    if runner.get("pid") is not None:
        rows.append(_row("batch runner", runner["state"], runner["pid"], restarts.get("batch_runner", 0)))
    return rows


def uptime_s(pid: int) -> float | None:
    """Seconds since the process began; None where there is none."""
    ticks = start_ticks(pid)
    if not ticks:
        return None
    since_boot = float(Path("/proc/uptime").read_text().split()[0])
    return max(since_boot - ticks / _TICKS_PER_SECOND, 0.0)


def _row(name: str, state: str, pid: int | None, num_restarts: int | None, port: int | None = None) -> ProcessRow:
    if pid is None:
        return ProcessRow(name, state, num_restarts=num_restarts, port=port)
    return ProcessRow(name, state, pid, uptime_s(pid), resident_bytes(pid), num_restarts, port)
