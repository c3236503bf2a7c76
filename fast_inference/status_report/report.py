"""What runs and how busy it is as one record, its JSON, and its text for people."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from engine_core.memory_plan import format_bytes
from fast_inference.status_report.probes import CoreLoad, ServedModel, ServerLoad
from fast_inference.status_report.processes import ProcessRow

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400
READY = "ready"


@dataclass(frozen=True, slots=True)
class StatusReport:
    """One look at a server."""

    url: str
    state: str
    """Of the whole server: starting, ready, restarting, draining or stopped."""
    run_dir: str = ""
    """Empty where only the URL is known."""
    processes: Sequence[ProcessRow] = ()
    """None where only the URL is known."""
    model: ServedModel | None = None
    """None while the core does not answer."""
    load: ServerLoad | None = None
    detail: str = ""
    """Why there is no load."""
    last_core_exit: str = ""
    """How the core before the first one ended."""
    cores: Sequence[CoreLoad] = ()

    @property
    def is_ready(self) -> bool:
        """True while requests are served."""
        return self.state == READY

    def as_json(self) -> str:
        """In one line, so that `--watch` gives one object per line."""
        return json.dumps(asdict(self))

    def as_text(self) -> str:
        """For people."""
        lines = [f"{self.state}  {self.url}" + (f"  (run dir {self.run_dir})" if self.run_dir else "")]
        if self.model is not None:
            model = self.model
            lines.append(f"model  {model.name}, {model.dtype} on {model.device}, up to {model.max_model_len:,} tokens")
        lines.append(f"load   {self._load_text()}")
        if len(self.cores) > 1:
            lines += [f"core   {core.name}: {_core_text(core)}" for core in self.cores]
        if self.last_core_exit and len(self.cores) < 2:  # else each one says it
            lines.append(f"note   the engine core before this one {self.last_core_exit}")
        return "\n".join([*lines, *self._process_lines()])

    def _load_text(self) -> str:
        load = self.load
        if load is None:
            return f"not known: {self.detail}"
        room = f" of {self.model.kv_tokens:,} tokens" if self.model is not None and self.model.kv_tokens else ""
        return _busy_text(load) + room

    def _process_lines(self) -> list[str]:
        if not self.processes:
            return []
        rows: list[tuple[str, ...]] = [("PROCESS", "STATE", "PID", "UPTIME", "MEMORY", "RESTARTS", "PORT")]
        rows += [_cells(process) for process in self.processes]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        aligned = [str.ljust, str.ljust, str.rjust, str.rjust, str.rjust, str.rjust, str.rjust]
        lines = [
            "  ".join(align(cell, width) for align, cell, width in zip(aligned, row, widths, strict=True))
            for row in rows
        ]
        return ["", *(line.rstrip() for line in lines)]


def _busy_text(load: ServerLoad) -> str:
    speed = "" if load.tokens_per_second is None else f", {load.tokens_per_second:,.0f} tok/s"
    waiting = f"{load.num_waiting} waiting" + (
        f" with {load.num_queued_tokens:,} tokens" if load.num_queued_tokens else ""
    )
    return f"{load.num_running} running, {waiting}{speed}, KV cache {load.kv_cache_usage:.0%}"


def _core_text(core: CoreLoad) -> str:
    device = f" on {core.device}" if core.device else ""
    busy = f", {_busy_text(core.load)}" if core.load is not None else ""
    return f"{core.state}{device}{busy}" + (f"; the one before {core.last_exit}" if core.last_exit else "")


def duration(seconds: float) -> str:
    """A time for people: `42 s`, `3:05 min`, `1:02:03 h`, `4 d 01:02 h`."""
    whole = int(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    minutes, hours = whole // _MINUTE_S % 60, whole // _HOUR_S
    if whole < _HOUR_S:
        return f"{minutes}:{whole % 60:02d} min"
    if whole < _DAY_S:
        return f"{hours}:{minutes:02d}:{whole % 60:02d} h"
    return f"{whole // _DAY_S} d {hours % 24:02d}:{minutes:02d} h"


def _cells(process: ProcessRow) -> tuple[str, ...]:
    return (
        process.name,
        process.state,
        "-" if process.pid is None else str(process.pid),
        "-" if process.uptime_s is None else duration(process.uptime_s),
        "-" if process.rss_bytes is None else format_bytes(process.rss_bytes),
        "-" if process.num_restarts is None else str(process.num_restarts),
        "" if process.port is None else str(process.port),
    )
