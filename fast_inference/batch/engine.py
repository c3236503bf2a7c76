"""The engine of a batch job: a core of its own without HTTP, or the core of a server that runs.

Both are contexts that give an `Engine`. Invariant: when the context is left, a core of one's own is gone, and that of a
server is as it was before; a job that ends in any other way leaves neither requests nor processes behind, because the
core ends what a dead client asked for, and the kernel a core whose runner is dead.
"""

import asyncio
import os
import shutil
import stat
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fast_inference.config_file import write_config
from fast_inference.core_supervisor import CORE_GRACE_S, CoreSupervisor
from fast_inference.settings import Settings
from frontend.health import package_version
from frontend.server_client import client_of_server
from frontend.state import FrontendState
from ipc.config import FrontendConfig, load_section
from ipc.endpoints import RunDir
from ipc.errors import ConfigError
from ipc.messages import ClientRole

_WATCH_INTERVAL_S = 0.5
_FOLDER_PREFIX = "fast-inference-batch-"
_LEFTOVER_AGE_S = 60.0
"""A younger folder may be one whose owner has not locked it yet."""
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


class EngineEndedError(Exception):
    """There will be no engine any more; `reason` is None where its core has said why in one line itself."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Engine:
    """Where a job finds its core."""

    state: FrontendState
    ended: asyncio.Future[None]
    """Fails with `EngineEndedError` when there will be no core any more."""


@asynccontextmanager
async def own_engine(settings: Settings, progress: Callable[[str], None]) -> AsyncGenerator[Engine, None]:
    """Start a core; it is replaced when it dies or hangs, as that of a server.

    `settings` are resolved: the model is a folder, `run_dir` is not looked at. `progress` is told of each stage.

    Raises:
        ConfigError: its files cannot be written.
    """
    remove_leftovers(time.time())
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))
    try:
        run_dir = RunDir(folder / "run")
        run_dir.create()
        lock = run_dir.lock_launcher()
        write_config(settings.model_copy(update={"run_dir": run_dir.path}), run_dir.config_file)
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def fail(reason: str | None) -> None:
            if not ended.done():
                ended.set_exception(EngineEndedError(reason))

        cores = CoreSupervisor(run_dir, settings.hang_timeout, lambda: _show_stage(cores, progress), fail)
        running = asyncio.create_task(cores.run())
        running.add_done_callback(lambda task: _pass_on(task, ended))
        try:
            async with _connected(run_dir) as state:
                yield Engine(state, ended)
        finally:
            await cores.stop(CORE_GRACE_S)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            for core in cores.children:
                core.kill()
            _forget(ended)
            os.close(lock)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def attached_engine(run_dir: RunDir) -> AsyncGenerator[Engine, None]:
    """The core of the server on this run dir.

    Raises:
        ConfigError: no server runs there, or one of another version.
    """
    if not run_dir.has_launcher():
        raise ConfigError(f"no server runs on {run_dir.path}")
    async with _connected(run_dir) as state:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        watching = asyncio.create_task(_watch_server(run_dir, state, ended))
        watching.add_done_callback(lambda task: _pass_on(task, ended))
        try:
            yield Engine(state, ended)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            _forget(ended)


def attached_run_dir(target: str) -> RunDir:
    """The run dir that `--attach` means: a folder, or the URL of a server on this machine with the default run dir.

    Raises:
        ConfigError: the URL is of another machine, or no server with that run dir is there.
    """
    if "://" not in target:
        return RunDir(Path(target))
    parts = urlsplit(target)
    try:
        port = parts.port or 80
    except ValueError as error:
        raise ConfigError(f"--attach: {target} is no URL") from error
    if parts.hostname not in _LOCAL_HOSTS:
        raise ConfigError(f"--attach: {parts.hostname} is not this machine; a job needs the socket of the engine core")
    run_dir = RunDir.default(port)
    if not run_dir.has_launcher():
        raise ConfigError(f"no server runs on {run_dir.path} (where it was started with --run-dir, attach to that)")
    return run_dir


def remove_leftovers(now: float) -> None:
    """Remove the folders of jobs that were killed, `now` being the time since the epoch."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        with suppress(OSError):  # another job removes it too
            found = folder.lstat()
            is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
            is_old = now - found.st_mtime > _LEFTOVER_AGE_S
            if is_ours and is_old and not RunDir(folder / "run").has_launcher():
                shutil.rmtree(folder)


@asynccontextmanager
async def _connected(run_dir: RunDir) -> AsyncGenerator[FrontendState, None]:
    """A state without HTTP, as a frontend of this run dir has it, but as a client of the role BATCH."""
    config = load_section(run_dir.config_file, FrontendConfig)
    client = client_of_server(run_dir, name="batch", role=ClientRole.BATCH)
    created_at = int(time.time())
    state = FrontendState(config, client, created_at=created_at, config_file=run_dir.config_file, role="batch")
    await state.start()
    try:
        yield state
    finally:
        await state.close()


async def _watch_server(run_dir: RunDir, state: FrontendState, ended: asyncio.Future[None]) -> None:
    """Look whether the server is there, and whether its core is one that we can talk to."""
    while not ended.done():
        welcome = state.client.welcome
        if welcome is not None and welcome.core_version != package_version():
            reason = f"the server on {run_dir.path} has version {welcome.core_version}, this is {package_version()}"
            ended.set_exception(EngineEndedError(reason))
        elif not run_dir.has_launcher():
            ended.set_exception(EngineEndedError(f"the server on {run_dir.path} has ended"))
        await asyncio.sleep(_WATCH_INTERVAL_S)


def _show_stage(cores: CoreSupervisor, progress: Callable[[str], None]) -> None:
    if not cores.has_been_ready:
        progress(cores.stage or "starting the core")


def _pass_on(task: asyncio.Task[None], ended: asyncio.Future[None]) -> None:
    """What nobody foresaw ends the job too."""
    if not task.cancelled() and (error := task.exception()) is not None and not ended.done():
        ended.set_exception(error)


def _forget(ended: asyncio.Future[None]) -> None:
    """Nobody waits any more."""
    if ended.done():
        ended.exception()
    else:
        ended.cancel()
