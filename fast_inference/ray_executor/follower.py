"""Follows a fleet for one launcher: `cores.json` and `fleet.json` of its run dir are as the directory says.

Used by `agent.py`, which is the process. It finds the directory by name, or makes it. Invariant: while nothing new is
known, both files stay as they are, whatever becomes of Ray. Next: `directory_actor.py`, the other end.
"""

import asyncio
import logging
import re
import secrets
import signal
import socket
import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fast_inference.ray_executor.directory_actor import DirectoryActor, last_line
from fast_inference.ray_executor.fleet_spec import NAMESPACE, FleetSpec
from fast_inference.ray_executor.fleet_state import FleetCore, FleetState
from fast_inference.ray_executor.records import ClientHello, FleetView
from fast_inference.ray_executor.resources import resources_of, waiting_text
from ipc.core_directory import read_cores, write_cores
from ipc.curve import CurveDir
from ipc.endpoints import RemoteCore, RunDir
from ipc.errors import ConfigError

log = logging.getLogger(__name__)

_CALL_TIMEOUT_S = 5.0
_LOST_AFTER_S = 20.0
"""Without an answer of the directory; a new process then looks for it afresh."""
_RETRY_S = 0.5
_NODES_INTERVAL_S = 2.0


class RayLostError(Exception):
    """The connection to Ray is of no use any more."""


class FleetFollower:
    """Of one launcher."""

    def __init__(self, run_dir: RunDir, spec: FleetSpec) -> None:
        """Ray is connected."""
        self._run_dir = run_dir
        self._spec = spec
        self._keys = CurveDir(run_dir.ray_keys_dir)
        self._name = _own_name(self._keys)
        self._public_key = self._keys.make_client(self._name)
        self._addresses = _written_addresses(run_dir)
        """Those in the file."""
        self._state: FleetState | None = None
        self._is_short_of_room = False
        self._num_wanted = 0
        self._room = ""
        self._directory: Any = None
        self._leaving = asyncio.Event()

    async def run(self) -> None:
        """Follow the fleet until told to end.

        Raises:
            ConfigError: a fleet of this name has other settings, or its cores cannot start.
            RayLostError: a new process may do better.
        """
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._leaving.set)
        following = asyncio.create_task(self._follow_for_ever())
        leaving = asyncio.create_task(self._leaving.wait())
        asking = asyncio.create_task(self._look_for_room())
        await asyncio.wait({following, leaving, asking}, return_when=asyncio.FIRST_COMPLETED)
        for task in (following, leaving, asking):
            task.cancel()
        results = await asyncio.gather(following, asking, return_exceptions=True)
        errors = [result for result in results if isinstance(result, Exception)]
        if not any(isinstance(error, RayLostError) for error in errors):
            await self._leave()
        if errors:
            raise errors[0]

    # --- the directory ---

    async def _find_directory(self) -> None:
        """Find the fleet, or make it.

        Raises:
            ConfigError: it was made with other settings.
        """
        nodes = await asyncio.to_thread(alive_nodes)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        options = {
            "name": self._spec.directory_name,
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "get_if_exists": True,
            "max_restarts": -1,
            "num_cpus": 0,
            "scheduling_strategy": here,
        }

        def find() -> Any:
            return ray.remote(DirectoryActor).options(**options).remote(self._spec, resources_of(self._spec, nodes))

        directory = await asyncio.to_thread(find)
        async with asyncio.timeout(_LOST_AFTER_S):
            theirs: FleetSpec = await directory.spec.remote()
        if different := self._spec.flags_that_differ(theirs):
            raise ConfigError(
                f"the fleet {self._spec.name} serves {theirs.settings['model']} with other settings, which differ in "
                f"{', '.join(different)}: use the same, or another --ray-fleet"
            )
        self._directory = directory

    async def _follow_for_ever(self) -> None:
        heard_at, known = time.monotonic(), None
        while True:
            try:
                if self._directory is None:
                    await self._find_directory()
                hello = ClientHello(self._name, self._public_key, tuple(self._addresses))
                async with asyncio.timeout(_CALL_TIMEOUT_S):
                    view: FleetView = await self._directory.follow.remote(hello, known)
                heard_at, known = time.monotonic(), view
                if view.is_ending:  # with the last server of before
                    self._directory, known = None, None
                    await asyncio.sleep(_RETRY_S)
                    continue
                self._take_in(view)
            except ray.exceptions.ActorDiedError as error:
                if time.monotonic() - heard_at > _LOST_AFTER_S:
                    raise RayLostError(f"the directory of the fleet cannot run: {last_line(error)}") from error
                log.warning("the directory of the fleet %s is gone: %s", self._spec.name, last_line(error))
                self._directory, known = None, None
                await asyncio.sleep(_RETRY_S)
            except (ray.exceptions.RayError, TimeoutError) as error:
                if time.monotonic() - heard_at > _LOST_AFTER_S:
                    raise RayLostError(f"no answer from the directory of the fleet: {error}") from error
                log.debug("the directory of the fleet does not answer: %s", error)
                await asyncio.sleep(_RETRY_S)

    async def _leave(self) -> None:
        """Say so, and where this was the last launcher of the fleet, wait for the end of the cores."""
        if self._directory is None:
            return
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                is_last = await self._directory.leave.remote(self._name)
            while is_last:
                async with asyncio.timeout(_CALL_TIMEOUT_S):
                    await self._directory.num_cores.remote()
                await asyncio.sleep(_RETRY_S / 5)
        except ray.exceptions.ActorDiedError:
            return  # with the last core
        except (ray.exceptions.RayError, TimeoutError) as error:
            log.warning("cannot leave the fleet %s in order: %s", self._spec.name, error)

    # --- what is told here ---

    def _take_in(self, view: FleetView) -> None:
        if view.is_settled:
            keys_dir = self._keys.path
            addresses = {
                core.name: RemoteCore(core.endpoint, keys_dir, self._name, core.server_key) for core in view.listed
            }
            if addresses != self._addresses:
                write_cores(self._run_dir, addresses)
                self._addresses = addresses
                log.info(
                    "cores: %s", ", ".join(f"{name} at {core.endpoint}" for name, core in addresses.items()) or "-"
                )
        self._tell(view)

    def _tell(self, view: FleetView) -> None:
        cores = tuple(
            FleetCore(
                report.core,
                report.node_id,
                report.host,
                report.state,
                report.pid,
                report.epoch,
                report.num_blocks,
                report.load.num_running,
                report.can_generate,
                report.last_exit,
                report.restarts,
            )
            for report in view.reports
        )
        state = FleetState(self._stage(view), len(self._addresses), view.num_wanted, cores)
        if state != self._state:
            state.write(self._run_dir.fleet_file)
            self._state = state

    def _stage(self, view: FleetView) -> str:
        """What is waited for.

        Raises:
            ConfigError: a core cannot start, and none of this fleet ever could.
        """
        self._is_short_of_room, self._num_wanted = view.num_unplaced > 0, view.num_wanted
        if len(self._addresses) >= view.num_wanted:
            return ""
        failures = [report for report in view.reports if report.failure]
        if failures and not view.has_been_ready:
            raise ConfigError(f"core {failures[0].core} on {failures[0].host}: {failures[0].failure}")
        if failures:
            return f"core {failures[0].core} on {failures[0].host} cannot start: {failures[0].failure}"
        if view.num_unplaced:
            return view.trouble or self._room or "waiting for Ray to start the cores"
        return next((report.stage for report in view.reports if report.stage), "starting the cores")

    async def _look_for_room(self) -> None:
        """Say what Ray has while a core has no place."""
        while True:
            await asyncio.sleep(_NODES_INTERVAL_S)
            if self._is_short_of_room:
                nodes = await asyncio.to_thread(alive_nodes)
                self._room = waiting_text(resources_of(self._spec, nodes), nodes, self._num_wanted)


def _written_addresses(run_dir: RunDir) -> dict[str, RemoteCore]:
    """What an agent of before has left in `cores.json`; the launcher has left an empty one."""
    return {name: core for name, core in read_cores(run_dir).items() if isinstance(core, RemoteCore)}


def alive_nodes() -> list[dict[str, float]]:
    """The resources of each node of the cluster."""
    nodes = ray.nodes()
    return [node["Resources"] for node in nodes if node["Alive"]]


def _own_name(keys: CurveDir) -> str:
    """That of an agent of before on this run dir, whose key clients use; else a new one."""
    known = sorted(path.stem for path in keys.clients_dir.glob("*.key"))
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()).lstrip("-.") or "host"
    return known[0] if known else f"{host}-{secrets.token_hex(6)}"
