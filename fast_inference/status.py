"""`status.json` in the run dir: what of this server runs, for people and tools.

Written by `launcher.py` on each change, atomically, so that a reader never sees half of it. The file outlives the
server: its last state is "stopped".
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from ipc.core_directory import ONLY_CORE

log = logging.getLogger(__name__)


class ServerState(StrEnum):
    """State of the whole server."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    """No core is ready again after a death; frontends answer 503."""
    DRAINING = "draining"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class LauncherStatus:
    """The launcher itself."""

    pid: int


@dataclass(frozen=True, slots=True)
class CoreStatus:
    """An engine core; `pid` is None while none runs, `epoch` 0 until it is first known."""

    pid: int | None = None
    epoch: int = 0
    state: str = "stopped"
    """starting, loading, ready, draining, dying, stopped, failed: one of several that crashes again and again, or
    dead: one on another host that was there and is not heard any more."""
    last_exit: str = ""
    """How the core before this one ended; empty while none has."""
    restarts: Mapping[str, int] = field(default_factory=dict)
    """Cores that died and were replaced, by how: signal, hang, exit."""
    name: str = ONLY_CORE
    """As clients and metrics call it."""
    cpus: str = ""
    """Where it computes, such as `0-3,8`; empty where it may be anywhere."""


@dataclass(frozen=True, slots=True)
class FrontendStatus:
    """One frontend; all have the same `port`, unless each has its own."""

    pid: int | None = None
    port: int = 0
    state: str = "stopped"
    """starting, ready, draining or stopped."""


@dataclass(frozen=True, slots=True)
class BatchRunnerStatus:
    """The process that runs batches of the API; there while there are any."""

    pid: int | None = None
    state: str = "stopped"
    """running or stopped."""


@dataclass(frozen=True, slots=True)
class Restarts:
    """How often each process was started again after it had died; those of the core are with it."""

    frontends: tuple[int, ...] = ()
    batch_runner: int = 0


class ReloadState(StrEnum):
    """How far a reload has come."""

    LOADING = "loading"
    """The new core loads, the old one serves."""
    RETIRING = "retiring"
    """The new core serves, the old one finishes what it runs."""
    DONE = "done"
    FAILED = "failed"
    """The old core serves on."""


@dataclass(frozen=True, slots=True)
class ReloadStatus:
    """The latest reload; `reason` says in one line why it failed."""

    id: str
    state: ReloadState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """Everything in the file."""

    state: ServerState
    launcher: LauncherStatus
    core: CoreStatus
    """The first one."""
    frontends: tuple[FrontendStatus, ...]
    url: str
    reload: ReloadStatus | None = None
    batch_runner: BatchRunnerStatus = BatchRunnerStatus()
    restarts: Restarts = Restarts()
    cores: tuple[CoreStatus, ...] = ()
    """All of them."""


class StatusFile:
    """Writes the file whenever the status differs from what it holds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: Status | None = None

    def write(self, status: Status) -> None:
        """Replace the file, if anything changed; a disk that refuses is logged and does not stop the server."""
        if status == self._written:
            return
        self._written = status
        temporary = self._path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(asdict(status), indent=2) + "\n")
            os.replace(temporary, self._path)
        except OSError as error:
            log.warning("cannot write %s: %s", self._path, error.strerror)

    def write_stopped(self) -> None:
        """Say that nothing runs any more."""
        if self._written is None:
            return
        last = self._written
        frontends = tuple(FrontendStatus(port=frontend.port) for frontend in last.frontends)
        core, *cores = (replace(core, pid=None, state="stopped") for core in (last.core, *last.cores))
        stopped = replace(last, state=ServerState.STOPPED, core=core, frontends=frontends, cores=(*cores,))
        self.write(replace(stopped, batch_runner=BatchRunnerStatus()))
