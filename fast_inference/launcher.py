"""The launcher: starts one engine core and N frontends on one port, tells when they serve, and keeps them running.

Called by `cli.py` with resolved settings. It owns the listening socket, the run dir with its lock and `status.json`,
and the children: a frontend that dies is replaced, the core too, with backoff; a core that cannot start or crashes
again and again ends everything with exit status 1. SIGTERM and SIGINT drain the frontends, then the core; a second
signal kills. Invariant: when `serve` returns, every child has been reaped; when this process is killed, the kernel
kills the children with it.
Next: `child.py` (one process), then `engine_core/process.py` and `frontend/__main__.py` (what is started).
"""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

from fast_inference.child import Child, stop_children
from fast_inference.listener import bind_listener, local_url_of, port_of, url_of
from fast_inference.model_store import resolve_model
from fast_inference.progress import StartProgress
from fast_inference.ready_message import example_request, ready_line
from fast_inference.restart_policy import (
    CRASH_WINDOW_S,
    MAX_CORE_CRASHES,
    CoreRestartPolicy,
    FrontendRestartPolicy,
)
from fast_inference.settings import Settings, served_names
from fast_inference.status import CoreStatus, FrontendStatus, LauncherStatus, ServerState, Status, StatusFile
from ipc.client import EngineClient
from ipc.endpoints import RunDir
from ipc.errors import ConfigError
from ipc.exit_codes import EXIT_CONFIG_ERROR, SIGNAL_EXIT_BASE
from ipc.messages import ClientRole

log = logging.getLogger(__name__)

FRONTEND_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
_MAX_EARLY_FRONTEND_DEATHS = 5
_NOTHING_TO_DRAIN_GRACE_S = 2.0
_FRONTEND_GRACE_S = 2.0
_CORE_GRACE_S = 5.0
_HEAD_START_S = 2.0
_POLL_LOADING_S = 0.1
_POLL_READY_S = 1.0


def serve(settings: Settings) -> int:
    """Run a server until it is told to stop; returns the exit status.

    Raises:
        ConfigError: wrong host, port, run dir or model; no file of this start is left behind.
    """
    # Until the event loop takes over. A shell starts its background jobs with SIGINT ignored, which we undo.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with bind_listener(settings.host, settings.port) as listener, StartProgress() as progress:
        port = port_of(listener)
        run_dir = RunDir(settings.run_dir) if settings.run_dir else RunDir.default(port)
        run_dir.create()
        run_dir.lock("launcher")
        run_dir.journal_file.unlink(missing_ok=True)  # whatever ended the server before, it was no request
        try:
            names = served_names(settings)
            progress(f"looking for the model {settings.model}")
            model = resolve_model(settings.model, progress)
            resolved = {"model": model, "served_model_name": names, "port": port, "run_dir": run_dir.path}
            _write_config(settings.model_copy(update=resolved), run_dir.config_file)
            return asyncio.run(Launcher(settings, names[0], run_dir, listener, progress).run())
        finally:
            run_dir.remove_files()


class Launcher:
    """Everything from the first child to the last; made for one call of `run`."""

    def __init__(
        self, settings: Settings, model_name: str, run_dir: RunDir, listener: socket.socket, progress: StartProgress
    ) -> None:
        self._settings = settings
        self._model_name = model_name
        self._run_dir = run_dir
        self._listener = listener
        self._port = port_of(listener)
        self._url = url_of(settings.host, self._port)
        self._launcher_pid = os.getpid()
        self._progress = progress
        self._status_file = StatusFile(run_dir.status_file)
        self._client = EngineClient(run_dir.core_socket, name="launcher", role=ClientRole.ADMIN)
        self._core: Child | None = None
        self._frontends: list[Child | None] = [None] * settings.frontends
        self._core_heard = asyncio.Event()
        self._stopping = asyncio.Event()
        self._was_ready = False
        self._exit_code = 0

    async def run(self) -> int:
        """Start everything, supervise it, and stop it again; returns the exit status."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._on_signal, signum)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._supervise_core())]
                tasks += [group.create_task(self._supervise_frontend(index)) for index in range(len(self._frontends))]
                tasks.append(group.create_task(self._follow_core()))
                await self._stopping.wait()
                await self._stop_children()
                for task in tasks:
                    task.cancel()
        finally:
            for child in self._children():
                child.kill()
            await self._client.close()
            self._status_file.write_stopped()
        return self._exit_code

    # --- children ---

    async def _supervise_core(self) -> None:
        policy = CoreRestartPolicy()
        has_been_ready = False
        while not self._stopping.is_set():
            core = self._core = self._start_core()
            if core is None:
                return
            self._refresh()
            await core.wait()
            has_been_ready = has_been_ready or core.ready.is_set()
            self._refresh()
            if self._stopping.is_set():
                return
            if core.exit_code == EXIT_CONFIG_ERROR:
                return self._fail(None)
            if not has_been_ready:
                return self._fail(f"the engine core {core.exit_text} before it was ready")
            delay_s = policy.on_crash(time.monotonic())
            if delay_s is None:
                return self._fail(f"the engine core crashed {MAX_CORE_CRASHES} times in {CRASH_WINDOW_S:.0f} s")
            log.error("engine core (pid %d) %s; restart in %.1f s", core.pid, core.exit_text, delay_s)
            await self._sleep(delay_s)

    async def _supervise_frontend(self, index: int) -> None:
        policy = FrontendRestartPolicy()
        num_early_deaths = 0
        await self._head_start_for_core()
        while not self._stopping.is_set():
            frontend = self._frontends[index] = self._start_frontend(index)
            if frontend is None:
                return
            self._refresh()
            has_served = await frontend.wait_ready()
            self._refresh()
            await frontend.wait()
            self._refresh()
            if self._stopping.is_set():
                return
            if not self._was_ready:
                num_early_deaths += 1
                if frontend.exit_code == EXIT_CONFIG_ERROR:
                    return self._fail(None)
                if num_early_deaths == _MAX_EARLY_FRONTEND_DEATHS:
                    return self._fail(f"{frontend.name} {frontend.exit_text} before it was ready")
            delay_s = policy.on_death(has_served)
            log.error("%s (pid %d) %s; restart in %.1f s", frontend.name, frontend.pid, frontend.exit_text, delay_s)
            await self._sleep(delay_s)

    async def _head_start_for_core(self) -> None:
        """Wait until the core has begun to load, which takes longest: frontends start faster than that beside it."""
        try:
            async with asyncio.timeout(_HEAD_START_S):
                await self._core_heard.wait()
        except TimeoutError:
            return

    def _start_core(self) -> Child | None:
        arguments = ["--config", str(self._run_dir.config_file)]
        try:
            return Child("engine core", "engine_core", arguments)
        except OSError as error:
            self._fail(f"cannot start the engine core: {error}")
            return None

    def _start_frontend(self, index: int) -> Child | None:
        listener_fd = self._listener.fileno()
        arguments = ["--config", str(self._run_dir.config_file), "--fd", str(listener_fd), "--index", str(index)]
        try:
            return Child(
                f"frontend {index}",
                "frontend",
                arguments,
                inherited_fds=[listener_fd],
                environment=FRONTEND_ENVIRONMENT,
                says_ready=True,
            )
        except OSError as error:
            self._fail(f"cannot start frontend {index}: {error}")
            return None

    async def _follow_core(self) -> None:
        """Learn from the core's beats how it is; its death is seen by its supervisor."""
        await self._client.start()
        while True:
            core = self._core
            welcome = self._client.welcome
            is_ready = (
                self._client.is_ready and core is not None and welcome is not None and welcome.core_pid == core.pid
            )
            if is_ready and core is not None:
                core.ready.set()
            if self._client.state is not None:
                self._core_heard.set()
            if not self._was_ready:
                self._progress("starting the frontends" if is_ready else self._client.detail or "starting the core")
            self._refresh()
            await asyncio.sleep(_POLL_READY_S if is_ready else _POLL_LOADING_S)

    def _children(self) -> list[Child]:
        return [child for child in (*self._frontends, self._core) if child is not None]

    # --- the end ---

    def _on_signal(self, signum: int) -> None:
        if self._stopping.is_set():
            self._exit_code = SIGNAL_EXIT_BASE + signum
            for child in self._children():
                child.send_signal(signal.SIGKILL)
            return
        self._exit_code = SIGNAL_EXIT_BASE + signum if signum == signal.SIGINT else 0
        self._stopping.set()

    def _fail(self, message: str | None) -> None:
        """End everything with status 1; without a message where the child has said why."""
        if self._stopping.is_set():
            return
        self._progress.close()
        if message is not None:
            sys.stderr.write(f"error: {message}\n")
        self._exit_code = EXIT_CONFIG_ERROR
        self._stopping.set()

    async def _stop_children(self) -> None:
        """Drain the frontends, then the core, or stop all at once before the start is complete or after a failure.

        Whoever takes too long is killed.
        """
        self._listener.close()  # once the frontends let go of it too, connections are refused at once
        self._progress.close()
        self._refresh()
        if not self._was_ready or self._exit_code == EXIT_CONFIG_ERROR:
            await self._client.close()
            await stop_children(self._children(), _NOTHING_TO_DRAIN_GRACE_S)
            return
        drain_s = self._settings.drain_timeout
        deadline = time.monotonic() + drain_s
        await stop_children([child for child in self._frontends if child is not None], drain_s + _FRONTEND_GRACE_S)
        await self._client.close()
        if self._core is not None:
            await stop_children([self._core], max(deadline - time.monotonic(), 0.0) + _CORE_GRACE_S)

    async def _sleep(self, delay_s: float) -> None:
        """Sleep, but not into the end."""
        try:
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()
        except TimeoutError:
            return

    # --- what people and tools see ---

    def _refresh(self) -> None:
        """Write `status.json` if anything changed, and the ready line the first time that all is ready."""
        status = self._status()
        self._status_file.write(status)
        if status.state is ServerState.READY and not self._was_ready:
            self._was_ready = True
            self._announce()

    def _status(self) -> Status:
        core = self._core_status()
        frontends = tuple(self._frontend_status(child) for child in self._frontends)
        ready_frontends = [frontend.state == "ready" for frontend in frontends]
        if self._stopping.is_set():
            state = ServerState.DRAINING
        elif core.state == "ready" and (any if self._was_ready else all)(ready_frontends):
            state = ServerState.READY
        else:
            state = ServerState.RESTARTING if self._was_ready else ServerState.STARTING
        return Status(state, LauncherStatus(self._launcher_pid), core, frontends, self._url)

    def _core_status(self) -> CoreStatus:
        welcome = self._client.welcome
        epoch = 0 if welcome is None else welcome.epoch
        if self._core is None or self._core.exited.is_set():
            return CoreStatus(epoch=epoch)
        state = "starting" if self._client.state is None else self._client.state.name.lower()
        if state == "ready" and not self._core.ready.is_set():
            state = "starting"  # the client still means the core before this one
        return CoreStatus(self._core.pid, epoch, state)

    def _frontend_status(self, frontend: Child | None) -> FrontendStatus:
        if frontend is None or frontend.exited.is_set():
            return FrontendStatus(port=self._port)
        state = "draining" if self._stopping.is_set() else "ready" if frontend.ready.is_set() else "starting"
        return FrontendStatus(frontend.pid, self._port, state)

    def _announce(self) -> None:
        self._progress.close()
        welcome = self._client.welcome
        assert welcome is not None
        try:
            sys.stdout.write(ready_line(self._url, self._model_name, len(self._frontends), welcome.num_blocks) + "\n")
            url = local_url_of(self._settings.host, self._port)
            sys.stdout.write(example_request(url, self._model_name, needs_key=bool(self._settings.api_key)) + "\n")
            sys.stdout.flush()
        except OSError as error:
            log.warning("cannot write the ready line: %s", error.strerror)  # nobody reads it; serve on


def _write_config(settings: Settings, path: Path) -> None:
    try:
        with open(path, "w", opener=_open_private) as file:
            os.fchmod(file.fileno(), 0o600)  # it may be there from before
            file.write(json.dumps(settings.model_dump(mode="json", exclude={"config"}), indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
