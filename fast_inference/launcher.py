"""The launcher: starts the engine cores and the frontends, tells when they serve, and keeps them running.

Called by `cli.py` with resolved settings. It owns the listening sockets, the run dir with its lock and `status.json`,
and the frontends: one that dies is replaced. The cores are the business of `core_fleet.py`, the process that runs
batches that of `batch_runner.py`. SIGTERM and SIGINT drain the frontends, then the cores; a second signal ends all
within two seconds. SIGHUP replaces the cores (`core_reload.py`).
Invariant: when `serve` returns, every child has been reaped; when this process is killed, the kernel kills them.
Next: `core_fleet.py`, `child.py` (one process), then `engine_core/core_server.py` and `frontend/__main__.py`.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from fast_inference.batch_runner import BatchRunnerSupervisor, open_state_dir
from fast_inference.child import FRONTEND_ENVIRONMENT, Child, stop_children
from fast_inference.config_file import write_config
from fast_inference.core_fleet import CoreFleet
from fast_inference.core_reload import CoreReload
from fast_inference.core_shares import CoreShare, divide_machine
from fast_inference.core_supervisor import CORE_GRACE_S
from fast_inference.drain_progress import show_drain
from fast_inference.listener import bind_listeners, local_url_of, port_of, url_of
from fast_inference.model_store import resolve_model
from fast_inference.progress import StartProgress
from fast_inference.ray_executor.fleet import RayFleet
from fast_inference.ready_message import example_request, ready_line
from fast_inference.remote_fleet import RemoteFleet
from fast_inference.restart_policy import FrontendRestartPolicy
from fast_inference.service_notify import ServiceNotifier
from fast_inference.settings import Settings, served_names
from fast_inference.status import FrontendStatus, LauncherStatus, Restarts, ServerState, Status, StatusFile
from frontend.batch_api.state_dir import StateDir
from ipc.endpoints import RunDir
from ipc.exit_codes import EXIT_CONFIG_ERROR, SIGNAL_EXIT_BASE
from ipc.process import raise_descriptor_limit

log = logging.getLogger(__name__)

_MAX_EARLY_FRONTEND_DEATHS = 5
_NOTHING_TO_DRAIN_GRACE_S = 2.0
_FRONTEND_GRACE_S = 2.0
_BATCH_RUNNER_GRACE_S = 5.0
"""It has nothing to finish: batches go on with the next start."""
_LAST_WORDS_S = 1.0
"""After a second signal, before all children are killed."""
_HEAD_START_S = 2.0


def serve(settings: Settings) -> int:
    """Run a server until it is told to stop; returns the exit status.

    Raises:
        ConfigError: wrong host, port, run dir or model; no file of this start is left behind.
    """
    # Until the event loop takes over. A shell starts its background jobs with SIGINT ignored, which we undo.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    raise_descriptor_limit()  # children inherit it
    with ExitStack() as exits:
        num_listeners = settings.frontends if settings.frontend_ports else min(settings.frontends, 1)
        listeners = bind_listeners(settings.host, settings.port, num_listeners)
        for listener in listeners:
            exits.enter_context(listener)
        progress = exits.enter_context(StartProgress())
        notifier = ServiceNotifier.from_environment(os.environ)
        port = port_of(listeners[0]) if listeners else settings.core_port
        run_dir = RunDir(settings.run_dir) if settings.run_dir else RunDir.default(port)
        run_dir.create()
        run_dir.lock_launcher()
        run_dir.forget_reload()
        run_dir.forget_crashes()  # whatever ended the server before, it was no request
        try:
            is_local = settings.executor == "local" and not settings.connect
            shares = divide_machine(settings) if is_local else []
            state_dir = open_state_dir(settings, port, run_dir) if listeners else None
            names, model = served_names(settings), settings.model
            if is_local:  # else each host of a core looks for it itself
                progress(f"looking for the model {model}")
                with notifier.extending():
                    model = resolve_model(model, progress, rope=settings.rope)
            resolved = {"model": model, "served_model_name": names, "port": port, "run_dir": run_dir.path}
            resolved["state_dir"] = state_dir.path if state_dir is not None else None
            write_config(settings.model_copy(update=resolved), run_dir.config_file)
            model_name = next(iter(names), "")
            launcher = Launcher(settings, model_name, run_dir, listeners, shares, progress, notifier, state_dir)
            return asyncio.run(launcher.run())
        finally:
            run_dir.remove_files()


class Launcher:
    """Everything from the first child to the last; made for one call of `run`."""

    def __init__(
        self,
        settings: Settings,
        model_name: str,
        run_dir: RunDir,
        listeners: Sequence[socket.socket],
        shares: Sequence[CoreShare],
        progress: StartProgress,
        notifier: ServiceNotifier,
        state_dir: StateDir | None = None,
    ) -> None:
        """`listeners` are one that the frontends share, one for each, or none; there is a core for each of the
        `shares`, or others have them, whose model may not be known by name: then `model_name` is empty.
        """
        self._settings = settings
        self._model_name = model_name
        self._run_dir = run_dir
        self._listeners = listeners
        self._ports = [port_of(listener) for listener in listeners]
        self._url = url_of(settings.host, self._ports[0]) if self._ports else settings.core_endpoint or ""
        self._launcher_pid = os.getpid()
        self._had_terminal = _has_terminal()
        self._outlives_terminal = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # `nohup` started us
        self._progress = progress
        self._notifier = notifier
        self._status_file = StatusFile(run_dir.status_file)
        self._reload_asked = asyncio.Event()
        self._batch_runner = BatchRunnerSupervisor(run_dir, state_dir, lambda: self._was_ready, self._refresh)
        self._frontends: list[Child | None] = [None] * settings.frontends
        self._num_frontend_restarts = [0] * settings.frontends
        self._stopping = asyncio.Event()
        self._cores: CoreFleet | RayFleet | RemoteFleet
        self._reload: CoreReload | None = None
        if settings.executor == "ray":
            self._cores = RayFleet(run_dir, settings.cores, self._refresh, self._fail)
        elif settings.connect:
            self._cores = RemoteFleet(run_dir, settings, self._refresh)
        else:
            self._cores = CoreFleet(run_dir, shares, settings.hang_timeout, self._refresh, self._fail)
            self._reload = CoreReload(settings, run_dir, self._cores, self._refresh)
        self._was_ready = False
        self._exit_code = 0

    async def run(self) -> int:
        """Start everything, supervise it, and stop it again; returns the exit status.

        Raises:
            ConfigError: a core cannot have its run dir.
        """
        self._cores.prepare()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._on_signal, signum)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._cores.run())]
                tasks.append(group.create_task(self._serve_reloads()))
                tasks.append(group.create_task(self._batch_runner.run()))
                tasks.append(group.create_task(self._notifier.run(lambda: not self._cores.is_stuck)))
                tasks += [group.create_task(self._supervise_frontend(index)) for index in range(len(self._frontends))]
                await self._stopping.wait()
                await self._stop_children()
                for task in tasks:
                    task.cancel()
        finally:
            for child in self._children():
                child.kill()
            self._status_file.write_stopped()
        return self._exit_code

    async def _serve_reloads(self) -> None:
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            if self._reload is None:
                log.error("the cores of this server are not its own: reload them where they run, or start others")
            else:
                await self._reload.run()

    # --- children ---

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
            self._num_frontend_restarts[index] += 1
            await self._sleep(delay_s)

    async def _head_start_for_core(self) -> None:
        """Wait until the core has begun to load, which takes longest: frontends start faster than that beside it."""
        try:
            async with asyncio.timeout(_HEAD_START_S):
                await self._cores.was_heard.wait()
        except TimeoutError:
            return

    def _start_frontend(self, index: int) -> Child | None:
        listener_fd = self._listeners[index % len(self._listeners)].fileno()
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

    def _running_frontends(self) -> list[Child]:
        return [child for child in self._frontends if child is not None]

    def _children(self) -> list[Child]:
        return [*self._running_frontends(), *self._batch_runner.children, *self._cores.children]

    # --- the end ---

    def _on_signal(self, signum: int) -> None:
        if self._stopping.is_set():
            self._exit_code = SIGNAL_EXIT_BASE + signum
            for frontend in self._running_frontends():
                frontend.send_signal(signal.SIGINT)  # its second signal: it ends what runs with an error
            asyncio.get_running_loop().call_later(_LAST_WORDS_S if self._was_ready else 0.0, self._kill_children)
            return
        self._exit_code = SIGNAL_EXIT_BASE + signum if signum == signal.SIGINT else 0
        self._stopping.set()

    def _on_hangup(self) -> None:
        """Replace the core; but where nobody asked for that and the terminal was closed, its user wants an end."""
        is_terminal_gone = self._had_terminal and not _has_terminal()
        if not is_terminal_gone or self._run_dir.reload_file.exists():
            self._reload_asked.set()
        elif not self._outlives_terminal:
            self._on_signal(signal.SIGHUP)

    def _kill_children(self) -> None:
        for child in self._children():
            child.send_signal(signal.SIGKILL)

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
        """Drain the frontends, then the cores, or stop all at once before the start is complete or after a failure.

        Whoever takes too long is killed.
        """
        for listener in self._listeners:
            listener.close()  # frontends accept until they are drained; after that, connections are refused at once
        self._progress.close()
        self._refresh()
        if not self._was_ready or self._exit_code == EXIT_CONFIG_ERROR:
            await asyncio.gather(
                stop_children(self._running_frontends(), _NOTHING_TO_DRAIN_GRACE_S),
                self._batch_runner.stop(_NOTHING_TO_DRAIN_GRACE_S),
                self._cores.stop(_NOTHING_TO_DRAIN_GRACE_S),
            )
            return
        drain_s = self._settings.drain_timeout
        deadline = time.monotonic() + drain_s
        showing = asyncio.create_task(show_drain(lambda: self._cores.num_running, deadline))
        try:
            await asyncio.gather(
                stop_children(self._running_frontends(), drain_s + _FRONTEND_GRACE_S),
                self._batch_runner.stop(_BATCH_RUNNER_GRACE_S),
            )
            await self._cores.stop(max(deadline - time.monotonic(), 0.0) + CORE_GRACE_S)
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)

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
        is_loaded = self._cores.are_all_ready
        stage = "starting the frontends" if is_loaded else self._cores.stage or "starting the core"
        if not self._was_ready and not self._stopping.is_set():
            self._progress(stage)
        status = self._status()
        self._status_file.write(status)
        self._notifier.follow(status, stage)
        if status.state is ServerState.READY and not self._was_ready:
            self._was_ready = True
            self._announce()

    def _status(self) -> Status:
        cores = self._cores.statuses()
        are_cores_ready = self._cores.is_ready if self._was_ready else self._cores.are_all_ready
        frontends = tuple(self._frontend_status(index) for index in range(len(self._frontends)))
        ready_frontends = [frontend.state == "ready" for frontend in frontends]
        if self._stopping.is_set():
            state = ServerState.DRAINING
        elif are_cores_ready and (all(ready_frontends) or (self._was_ready and any(ready_frontends))):
            state = ServerState.READY
        else:
            state = ServerState.RESTARTING if self._was_ready else ServerState.STARTING
        reload = None if self._reload is None else self._reload.status
        launcher, batch_runner = LauncherStatus(self._launcher_pid), self._batch_runner.status()
        restarts = Restarts((*self._num_frontend_restarts,), self._batch_runner.num_deaths)
        return Status(state, launcher, cores[0], frontends, self._url, reload, batch_runner, restarts, cores)

    def _frontend_status(self, index: int) -> FrontendStatus:
        frontend, port = self._frontends[index], self._ports[index % len(self._ports)]
        if frontend is None or frontend.exited.is_set():
            return FrontendStatus(port=port)
        state = "draining" if self._stopping.is_set() else "ready" if frontend.ready.is_set() else "starting"
        return FrontendStatus(frontend.pid, port, state)

    def _announce(self) -> None:
        self._progress.close()
        try:
            model_name = self._model_name
            if isinstance(self._cores, RemoteFleet):
                model_name = model_name or self._cores.model_id
            num_frontends, num_cores = len(self._frontends), len(self._cores.statuses())
            line = ready_line(self._url, model_name, num_frontends, self._cores.num_blocks, num_cores)
            sys.stdout.write(line + "\n")
            if self._ports:
                sys.stdout.write(self._example_request(model_name) + "\n")
            sys.stdout.flush()
        except OSError as error:
            log.warning("cannot write the ready line: %s", error.strerror)  # nobody reads it; serve on

    def _example_request(self, model_name: str) -> str:
        url = local_url_of(self._settings.host, self._ports[0])
        can_generate, needs_key = self._cores.can_generate, bool(self._settings.api_key)
        return example_request(url, model_name, can_generate=can_generate, needs_key=needs_key)


def _has_terminal() -> bool:
    """True while this process can reach its controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
