"""Has a process run the batches of the API while there are any, and none at other times.

Used by `launcher.py`, which makes the state dir with `open_state_dir` and holds its lock. Whether there is something to
do is looked for in the database, twice a second, so that it does not matter who dies between asking for work and
telling of it. Invariant: at most one runner runs. Next: `frontend/batch_api/__main__.py`.
"""

import asyncio
import importlib.util
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fast_inference.child import FRONTEND_ENVIRONMENT, Child, stop_children
from fast_inference.restart_policy import FrontendRestartPolicy
from fast_inference.settings import Settings
from fast_inference.status import BatchRunnerStatus
from frontend.batch_api.state_dir import StateDir
from ipc.endpoints import RunDir
from ipc.errors import ConfigError

if TYPE_CHECKING:
    from frontend.batch_api.store import StateStore

log = logging.getLogger(__name__)

_LOOK_INTERVAL_S = 0.5
_STABLE_S = 10.0
"""A runner that has run for so long did not die of its start."""


def open_state_dir(settings: Settings, port: int, run_dir: RunDir) -> StateDir | None:
    """Make the state dir and take its lock for the life of this process; None where there is to be none.

    Where nobody has named a folder, one that cannot be had is a warning: a server without batches is better than none.

    Raises:
        ConfigError: the folder of `--state-dir` cannot be used; or what is in it is of a newer version, or damaged.
    """
    if not settings.batch_api:
        return None
    try:
        if importlib.util.find_spec("_sqlite3") is None:
            raise ConfigError("this Python has no SQLite (--no-batch-api does without)")
        if settings.state_dir is not None:
            state_dir = StateDir(settings.state_dir)
        else:
            state_dir = StateDir.default(port) if settings.port else StateDir(run_dir.temporary_state_dir)
        state_dir.create()
        lock = state_dir.lock("server")
    except ConfigError as error:
        if settings.state_dir is not None:
            raise
        log.warning("no files and batches: %s", error.message)
        return None
    try:
        _tidy(state_dir)
    except ConfigError:
        os.close(lock)
        raise
    return state_dir


def _tidy(state_dir: StateDir) -> None:
    """Remove what processes of earlier servers have left in the middle of something."""
    if not state_dir.database.exists():
        return
    import sqlite3

    from frontend.batch_api.store import StateStore

    try:
        with StateStore(state_dir) as store:
            state_dir.remove_strays(*store.all_ids())
    except (sqlite3.Error, OSError) as error:
        raise ConfigError(f"cannot read state dir {state_dir.path}: {error} (--no-batch-api does without)") from error


class BatchRunnerSupervisor:
    """The runner of one launcher."""

    def __init__(
        self,
        run_dir: RunDir,
        state_dir: StateDir | None,
        may_begin: Callable[[], bool],
        on_change: Callable[[], None],
    ) -> None:
        """`state_dir` is None where there are no batches; `may_begin` says when the start of the server is over."""
        self._run_dir = run_dir
        self._state_dir = state_dir
        self._may_begin = may_begin
        self._on_change = on_change
        self._child: Child | None = None
        self._is_stopping = False
        self.num_deaths = 0
        """Runners that did not choose their end."""
        self._store: StateStore | None = None
        self._is_blind = False
        """The last look has failed, and it was logged."""

    @property
    def children(self) -> list[Child]:
        """The process that was started last, which may have ended."""
        return [] if self._child is None else [self._child]

    def status(self) -> BatchRunnerStatus:
        """What `status.json` says."""
        if self._child is None or self._child.exited.is_set():
            return BatchRunnerStatus()
        return BatchRunnerStatus(self._child.pid, "running")

    async def run(self) -> None:
        """Start a runner whenever there is work, until cancelled."""
        if self._state_dir is None:
            return
        policy = FrontendRestartPolicy()
        try:
            with ThreadPoolExecutor(1, thread_name_prefix="batch-store") as thread:
                while True:
                    await asyncio.sleep(_LOOK_INTERVAL_S)
                    if not self._may_begin():
                        continue
                    look = asyncio.get_running_loop().run_in_executor(thread, self._has_work, self._state_dir)
                    if await look and not self._is_stopping:
                        await self._run_once(policy)
        finally:
            if self._store is not None:
                self._store.close()

    async def stop(self, timeout_s: float) -> None:
        """End the runner; it is killed if it takes longer."""
        self._is_stopping = True
        await stop_children(self.children, timeout_s)

    async def _run_once(self, policy: FrontendRestartPolicy) -> None:
        """From the start of a runner to its end, and some time after one that it did not choose."""
        began_at = time.monotonic()
        try:
            arguments = ["--config", str(self._run_dir.config_file)]
            child = Child("batch runner", "frontend.batch_api", arguments, environment=FRONTEND_ENVIRONMENT)
        except OSError as error:
            log.error("cannot start the batch runner: %s", error)
            await asyncio.sleep(policy.on_death(False))
            return
        self._child = child
        self._on_change()
        await child.wait()
        self._on_change()
        if child.exit_code == 0 or self._is_stopping:
            return
        self.num_deaths += 1
        delay_s = policy.on_death(time.monotonic() - began_at >= _STABLE_S)
        log.error("batch runner (pid %d) %s; restart in %.1f s", child.pid, child.exit_text, delay_s)
        await asyncio.sleep(delay_s)

    def _has_work(self, state_dir: StateDir) -> bool:
        """Look into the database, if any frontend has made one."""
        if not state_dir.database.exists():
            return False
        import sqlite3

        from frontend.batch_api.store import StateStore

        try:
            if self._store is None:
                self._store = StateStore(state_dir)
            has_work = self._store.has_work(int(time.time()))
        except (sqlite3.Error, OSError, ConfigError) as error:
            if not self._is_blind:
                log.warning("cannot look for batches: %s", error)
            self._is_blind = True
            return False
        self._is_blind = False
        return has_work
