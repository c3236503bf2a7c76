"""One core of a fleet on the node where Ray has put it: its run dir and keys, its supervision, and what is told of it.

Used by `core_actor.py`, which carries reports and orders; knows no Ray. The engine core is the same process as that of
one machine, under the same supervisor. Invariants: the core starts only once somebody may connect to it; its port is
held from the first start to the end, so that it comes back where it was; its secret key never leaves the run dir.
Next: `fast_inference/core_supervisor.py`.
"""

import asyncio
import hashlib
import logging
import os
import secrets
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine_core.device import available_memory_bytes
from fast_inference.config_file import write_values
from fast_inference.core_shares import CoreShare
from fast_inference.core_supervisor import CORE_GRACE_S, CoreSupervisor
from fast_inference.model_store import resolve_model
from fast_inference.ray_executor.fleet_spec import FleetSpec
from fast_inference.ray_executor.records import CoreOrders, CoreReport
from ipc.curve import CurveDir
from ipc.endpoints import RunDir
from ipc.errors import ConfigError, EngineUnavailableError, ServerError
from ipc.messages import CallMethod, Load

log = logging.getLogger(__name__)

RETRY_S = 10.0
"""Between tries to start a core that cannot."""
_LEFTOVER_AGE_S = 60.0


class CoreHost:
    """Of one actor; use it from one event loop."""

    def __init__(
        self, core: str, spec: FleetSpec, node_id: str, host: str, num_threads: int | None, memory_share: float = 1.0
    ) -> None:
        """For core `core` of a fleet.

        Args:
            core: its name.
            spec: its fleet.
            node_id: Ray's name of this node.
            host: address of this node for others.
            num_threads: those to compute with; None for the default.
            memory_share: how much of the memory that this node can spare is its own to plan with.
        """
        self._core = core
        self._spec = spec
        self._node_id = node_id
        self._host = host
        self._num_threads = num_threads
        self._memory_share = memory_share
        self._incarnation = secrets.token_hex(8)
        self._run_dir = _run_dir_of(spec.name, core, node_id)
        self._keys = CurveDir(self._run_dir.path / "keys")
        self._server_key = ""
        self._endpoint = ""
        self._memory_bytes: int | None = None
        """The same in each start, whatever others have taken by then."""
        self._port: socket.socket | None = None
        """Holds the number."""
        self._lock: int | None = None
        self._clients: dict[str, str] = {}
        self._is_short_of_keys = False
        """The last try to let in others has failed."""
        self._may_start = asyncio.Event()
        self._supervisor: CoreSupervisor | None = None
        self._stage = "waiting for the first frontend"
        self._failure = ""
        self._failed = asyncio.Event()
        self._is_ending = False
        self.ended = asyncio.Event()
        """Set once the core has ended as ordered, and nothing of it is left here."""

    # --- what is told of it ---

    def report(self) -> CoreReport:
        """The core as it is now."""
        supervisor = self._supervisor
        core = None if supervisor is None else supervisor.active
        status = None if supervisor is None else supervisor.status()
        welcome = None if core is None else core.client.welcome
        # As long as its supervisor has not seen that it is ready, it takes its end for a start that failed.
        is_fresh = supervisor is not None and supervisor.is_ready and not supervisor.has_been_ready
        return CoreReport(
            core=self._core,
            incarnation=self._incarnation,
            node_id=self._node_id,
            host=self._host,
            endpoint=self._endpoint,
            server_key=self._server_key,
            clients=tuple(self._clients),
            state="loading" if is_fresh else "starting" if status is None else status.state,
            pid=None if status is None else status.pid,
            epoch=0 if status is None else status.epoch,
            stage=self._stage if supervisor is None else supervisor.stage or self._stage,
            failure=self._failure,
            has_ended=self.ended.is_set(),
            load=Load() if core is None else core.client.load,
            max_num_seqs=0 if welcome is None else welcome.max_num_seqs,
            num_blocks=0 if welcome is None else welcome.num_blocks,
            can_generate=welcome is None or welcome.can_generate,
            last_exit="" if status is None else status.last_exit,
            restarts={} if status is None else status.restarts,
        )

    # --- what it is told ---

    def allow(self, orders: CoreOrders) -> None:
        """Let these clients in, and nobody else as far as these are all."""
        clients = {**({} if orders.are_all else self._clients), **orders.clients}
        if not self._server_key or clients == self._clients:
            return
        try:
            self._keys.set_clients(clients)
        except ConfigError as error:  # a full disk; those that are in stay, and the next report tries again
            if not self._is_short_of_keys:
                log.error("cannot change who may connect yet: %s", error.message)
            self._is_short_of_keys = True
            return
        self._clients, self._is_short_of_keys = clients, False
        if self._clients:
            self._may_start.set()

    async def end(self) -> None:
        """Finish what runs, hand back the rest, end the core and remove its files; returns when that is done."""
        if self._is_ending:
            await self.ended.wait()
            return
        self._is_ending = True
        supervisor, drain_s = self._supervisor, float(self._spec.settings["drain_timeout"])
        if supervisor is not None:
            await self._retire(supervisor, drain_s)
            await supervisor.stop(CORE_GRACE_S)
        self._keys.remove()
        self._run_dir.remove_files()
        if self._port is not None:
            self._port.close()
        if self._lock is not None:
            os.close(self._lock)
        self.ended.set()

    async def _retire(self, supervisor: CoreSupervisor, drain_s: float) -> None:
        core = supervisor.active
        supervisor.is_stopping = True
        if core is None or not core.is_ready:
            return
        try:
            await core.client.call(CallMethod.RETIRE)
        except (EngineUnavailableError, ServerError) as error:
            log.warning("engine core (pid %d) does not retire: %s", core.child.pid, error.message)
            return
        await core.client.close()  # else it looks for the one that takes its place
        await core.child.wait(drain_s)

    # --- its life ---

    async def run(self) -> None:
        """Start the core and keep it running; never returns."""
        while not self._is_ending:
            try:
                await self._prepare()
                await self._may_start.wait()
                if not self._is_ending:
                    await self._serve()
            except (ConfigError, OSError) as error:
                self._fail(error.message if isinstance(error, ConfigError) else str(error))
            await asyncio.sleep(RETRY_S)
        await asyncio.Event().wait()

    async def _prepare(self) -> None:
        """Have a run dir, keys, a port and the configuration.

        Raises:
            ConfigError, OSError: something of that cannot be had on this node.
        """
        if self._port is None:
            self._run_dir.create()
            _remove_leftovers(self._run_dir.path)
            self._lock = self._run_dir.lock_launcher()
            self._run_dir.forget_crashes()
            self._keys.remove()  # of an actor of before on this node
            self._server_key = self._keys.make_server()
            if self._memory_share < 1:
                self._memory_bytes = int(self._memory_share * available_memory_bytes())
            self._port = _bound_port(self._host)
            address = f"[{self._host}]" if ":" in self._host else self._host
            self._endpoint = f"tcp://{address}:{self._port.getsockname()[1]}"
        settings = self._spec.settings
        self._stage = f"looking for the model {settings['model']}"
        model = await asyncio.to_thread(resolve_model, settings["model"], self._on_progress, rope=settings["rope"])
        values: dict[str, Any] = {**settings, **self._spec.told, "model": model, "cores": 1}
        if self._num_threads is not None and values["threads"] is None:
            values["threads"] = self._num_threads
        paths = {"run_dir": str(self._run_dir.path), "curve_dir": str(self._keys.path)}
        write_values({**values, **paths, "core_endpoint": self._endpoint}, self._run_dir.config_file)
        self._stage = "waiting for the first frontend"

    async def _serve(self) -> None:
        """Supervise cores until one cannot be started, or crashes again and again."""
        self._run_dir.forget_reload()
        self._failed.clear()
        hang_timeout_s = float(self._spec.settings["hang_timeout"])
        share = CoreShare(memory_bytes=self._memory_bytes)
        supervisor = CoreSupervisor(self._run_dir, hang_timeout_s, self._on_change, self._fail, share=share)
        self._supervisor = supervisor
        running = asyncio.create_task(supervisor.run())
        failing = asyncio.create_task(self._failed.wait())
        try:
            await asyncio.wait({running, failing}, return_when=asyncio.FIRST_COMPLETED)
            await self.ended.wait() if self._is_ending else await supervisor.stop(CORE_GRACE_S)
        finally:
            for task in (running, failing):
                task.cancel()
            await asyncio.gather(running, failing, return_exceptions=True)

    def _on_progress(self, stage: str, fraction: float | None = None) -> None:
        self._stage = stage if fraction is None else f"{stage} {fraction:.0%}"

    def _on_change(self) -> None:
        if self._supervisor is not None and self._supervisor.is_ready:
            self._failure, self._stage = "", ""

    def _fail(self, reason: str | None) -> None:
        """The core cannot be had; where it has said why itself, that is in a file."""
        if reason is None:
            with suppress(OSError):
                reason = self._run_dir.core_error_file.read_text().strip()
        self._failure = reason or "the engine core could not start"
        log.error("%s", self._failure)
        self._failed.set()


def _run_dir_of(fleet: str, core: str, node_id: str) -> RunDir:
    """A short path, the same whenever this core is started on this node, so that nothing piles up there."""
    digest = hashlib.sha256("\0".join((fleet, core, node_id)).encode()).hexdigest()[:12]
    return RunDir(Path(tempfile.gettempdir()) / f"fast-inference-{os.getuid()}" / f"ray-{digest}", is_default=True)


def _remove_leftovers(own: Path) -> None:
    """Remove what killed actors have left: run dirs of which nobody has the lock, unless they are quite new."""
    for path in own.parent.glob("ray-*"):
        run_dir = RunDir(path)
        with suppress(OSError):  # another actor does the same
            is_old = time.time() - path.stat().st_mtime > _LEFTOVER_AGE_S
            if path != own and is_old and run_dir.marker_file.exists() and not run_dir.has_launcher():
                shutil.rmtree(path)


def _bound_port(host: str) -> socket.socket:
    """A free port of this address that stays ours: bound, and not listening, so that the core can listen on it.

    Raises:
        OSError: the address is none of this machine.
    """
    holder = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as libzmq does
        holder.bind((host, 0))
    except OSError:
        holder.close()
        raise
    return holder
