"""The named Ray actor of one fleet: starts and ends the actors of its cores, and tells agents where cores are.

Made by the first agent, found by name by all others and by the cores. It is detached, as are the actors of cores: they
outlive the launcher that began. The fleet ends when its last agent leaves in order, or when none was heard for a lease.
Invariant: everything that it knows comes back by itself. Started again elsewhere, it finds the actors of its cores by
name, and they and the agents tell the rest.
Next: `directory.py` (the books), `scaling.py` (how many cores), `core_actor.py`.
"""

import asyncio
import logging
import os
import time
from typing import Any, cast

import ray
from ray.actor import ActorHandle

from fast_inference.ray_executor.core_actor import CoreActor
from fast_inference.ray_executor.directory import Directory
from fast_inference.ray_executor.fleet_spec import NAMESPACE, FleetSpec
from fast_inference.ray_executor.records import ClientHello, CoreOrders, CoreReport, CoreResources, FleetView
from fast_inference.ray_executor.scaling import ScalingPolicy
from fast_inference.ray_executor.worker_log import configure_worker_logging
from ipc.config import core_range
from ipc.own_sleep import OwnSleep

log = logging.getLogger(__name__)

FOLLOW_S = 1.0
"""How long an agent's question waits for something new."""
_LOOK_INTERVAL_S = 0.1
_RECONCILE_INTERVAL_S = 0.25
_WATCH_RETRY_S = 0.5
_START_AGAIN_S = 5.0
_END_GRACE_S = 10.0
"""What a core gets for its end beyond the time for its requests."""


class DirectoryActor:
    """Of one fleet."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, spec: FleetSpec, resources: CoreResources
    ) -> None:
        configure_worker_logging(spec.told, "cores directory")
        self._spec = spec
        self._resources = resources
        fewest, most = core_range(spec.settings["cores"])
        self._policy = ScalingPolicy(
            fewest, most, spec.settings["scale_up_queued_tokens"], spec.settings["scale_down_idle"]
        )
        self._directory = Directory(time.monotonic(), fewest)
        self._actors: dict[str, ActorHandle[Any]] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._may_start_at = 0.0
        """After an actor that ended for good: the next one may do the same."""
        self._tasks = [asyncio.create_task(work()) for work in (self._keep_time, self._reconcile_for_ever)]
        for task in self._tasks:
            task.add_done_callback(_end_process)

    # --- what agents and cores call ---

    async def spec(self) -> FleetSpec:
        """What the fleet was made with."""
        return self._spec

    async def follow(self, hello: ClientHello, known: FleetView | None) -> FleetView:
        """The fleet as this agent is to see it: at once where it uses other cores than are listed, else in a moment."""
        self._directory.on_client(hello, time.monotonic())
        deadline = time.monotonic() + FOLLOW_S
        while True:
            view = self._directory.view_for(hello.name, time.monotonic())
            is_new = known is None or _news_of(view) != _news_of(known)
            if is_new or time.monotonic() >= deadline:
                return view
            await asyncio.sleep(_LOOK_INTERVAL_S)

    async def leave(self, name: str) -> bool:
        """An agent ends in order; True where the fleet ends with it: once it has no core, this actor dies."""
        if self._directory.on_leave(name) and not self._directory.is_ending:
            log.info("the last server of the fleet %s has left: its cores end", self._spec.name)
            self._directory.is_ending = True
        return self._directory.is_ending

    async def num_cores(self) -> int:
        """Cores that have not ended."""
        return len(self._directory.names)

    async def report(self, report: CoreReport) -> CoreOrders:
        """A core tells how it is."""
        return self._directory.on_report(report, time.monotonic())

    # --- time ---

    async def _keep_time(self) -> None:
        own_sleep = OwnSleep()
        while True:
            self._directory.expire(time.monotonic(), own_sleep.slept_s())
            await asyncio.sleep(_LOOK_INTERVAL_S)

    # --- actors ---

    async def _reconcile_for_ever(self) -> None:
        """Have as many cores as are wanted, until the fleet ends; waits wherever Ray makes it wait."""
        await self._adopt()
        while not (self._directory.is_ending and not self._directory.names):
            now = time.monotonic()
            if self._directory.is_deserted(now) and not self._directory.is_ending:
                log.warning("no server was heard for long: the cores of the fleet %s end", self._spec.name)
                self._directory.is_ending = True
            self._choose_number(now)
            try:
                await self._reconcile(now)
            except (ray.exceptions.RayError, ValueError) as error:  # the head is away; ValueError: a name is taken
                log.warning("cannot change the cores of the fleet %s yet: %s", self._spec.name, error)
                self._directory.trouble = f"cannot change the cores: {last_line(error)}"
            await asyncio.sleep(_RECONCILE_INTERVAL_S)
        log.info("the fleet %s has ended", self._spec.name)
        await asyncio.to_thread(ray.kill, ray.get_runtime_context().current_actor)

    def _choose_number(self, now: float) -> None:
        directory = self._directory
        if directory.is_ending:
            directory.num_wanted = 0
            return
        wanted = self._policy.num_wanted(now, directory.num_wanted, directory.loads())
        if wanted != directory.num_wanted:
            log.info("the fleet %s is to have %d cores instead of %d", self._spec.name, wanted, directory.num_wanted)
            directory.num_wanted = wanted

    async def _reconcile(self, now: float) -> None:
        directory = self._directory
        while len(directory.kept) > directory.num_wanted:
            directory.end_core(directory.idlest(), now)
        for name in directory.ended(now, float(self._spec.settings["drain_timeout"]) + _END_GRACE_S):
            if name in self._actors:  # it may have died meanwhile
                await self._end_actor(name)
        while len(directory.kept) < directory.num_wanted and now >= self._may_start_at:
            await self._start_actor(self._free_name())

    async def _adopt(self) -> None:
        """Take over the actors that a directory of before has started."""
        actors = await asyncio.to_thread(ray.util.list_named_actors, all_namespaces=True)
        names = [actor["name"] for actor in actors if actor["namespace"] == NAMESPACE]
        for core in filter(None, map(self._spec.core_of, names)):
            try:
                actor = await asyncio.to_thread(ray.get_actor, self._spec.core_actor_name(core), NAMESPACE)
            except ValueError:  # it has ended meanwhile
                continue
            self._follow_actor(core, actor)
        found = len(self._directory.names)
        self._directory.num_wanted = max(found, self._directory.num_wanted)
        if found:
            log.info("the fleet %s has %d cores from before", self._spec.name, found)

    def _free_name(self) -> str:
        taken = set(self._directory.names)
        return next(name for name in map(str, range(len(taken) + 1)) if name not in taken)

    async def _start_actor(self, core: str) -> None:
        resources = self._resources
        options = {
            "name": self._spec.core_actor_name(core),
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "max_restarts": -1,
            "num_cpus": resources.num_cpus,
            "num_gpus": resources.num_gpus,
            "scheduling_strategy": "SPREAD",
        }

        def start() -> ActorHandle[Any]:
            handle: Any = ray.remote(CoreActor).options(**options).remote(core, self._spec, resources)
            return cast("ActorHandle[Any]", handle)

        log.info("starting core %s of the fleet %s with %s", core, self._spec.name, resources)
        self._follow_actor(core, await asyncio.to_thread(start))  # waits for the head

    def _follow_actor(self, core: str, actor: ActorHandle[Any]) -> None:
        self._actors[core] = actor
        self._directory.add_core(core)
        self._watches[core] = asyncio.create_task(self._watch(core, actor))

    async def _watch(self, core: str, actor: ActorHandle[Any]) -> None:
        """See its end at once. Ray starts it again, unless it says that it does not."""
        while True:
            asked_at = time.monotonic()
            try:
                await actor.watch.remote()
            except ray.exceptions.ActorDiedError as error:
                reason = last_line(error)
                log.warning("the actor of core %s is gone for good: %s", core, reason)
                if self._actors.get(core) is actor:
                    self._forget(core)
                    self._directory.trouble = f"the actor of core {core} is gone: {reason}"
                    self._may_start_at = time.monotonic() + _START_AGAIN_S
                return
            except ray.exceptions.RayError as error:
                if self._directory.on_unavailable(core, asked_at):
                    log.warning("the actor of core %s does not answer: %s", core, last_line(error))
                await asyncio.sleep(_WATCH_RETRY_S)

    async def _end_actor(self, core: str) -> None:
        actor = self._actors[core]
        self._watches[core].cancel()
        await asyncio.to_thread(ray.kill, actor)
        self._forget(core)

    def _forget(self, core: str) -> None:
        self._directory.forget_core(core)
        self._actors.pop(core, None)
        self._watches.pop(core, None)


def _news_of(view: FleetView) -> tuple[object, ...]:
    """What an agent is told at once."""
    return view.listed, view.is_settled, view.is_ending


def last_line(error: Exception) -> str:
    """What a text of Ray comes to, which may hold a trace."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _end_process(task: "asyncio.Task[None]") -> None:
    """Ray starts it again, and everything that it knew comes back."""
    if task.cancelled():
        return
    if task.exception() is not None:
        log.error("the directory of cores failed", exc_info=task.exception())
    os._exit(1)
