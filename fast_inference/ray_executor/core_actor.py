"""The Ray actor of one core: carries reports to the directory twice a second, and its orders back to the core.

Ray starts it again on another node when its own is lost; what it was told before that does not matter, as it asks the
directory for everything. It runs on while the Ray head is away. Invariant: an actor whose fleet is gone ends itself.
Next: `core_host.py`, which knows no Ray; `directory_actor.py`, the other end.
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.actor import ActorHandle

from fast_inference.ray_executor.core_host import CoreHost
from fast_inference.ray_executor.fleet_spec import NAMESPACE, FleetSpec
from fast_inference.ray_executor.records import CoreOrders, CoreResources
from fast_inference.ray_executor.resources import memory_share
from fast_inference.ray_executor.worker_log import configure_worker_logging

log = logging.getLogger(__name__)

REPORT_INTERVAL_S = 0.5
_ANSWER_TIMEOUT_S = 5.0
_WATCH_S = 1.0
_ORPHAN_S = 60.0
"""After which a core without a directory ends: nobody would ever end it."""


class CoreActor:
    """One core of a fleet, wherever Ray starts it."""

    async def __init__(  # type: ignore[misc]  # Ray awaits it
        self, core: str, spec: FleetSpec, resources: CoreResources
    ) -> None:
        configure_worker_logging(spec.told, f"core {core}")
        context = ray.get_runtime_context()
        self._spec = spec
        node_id = context.get_node_id()
        num_threads = None if resources.num_gpus else max(1, int(resources.num_cpus))
        share = memory_share(resources, _node_resources(node_id))
        self._host = CoreHost(core, spec, node_id, _own_address(), num_threads, share)
        self._directory: ActorHandle[Any] | None = None
        self._heard_at = time.monotonic()
        self._tasks = [asyncio.create_task(work()) for work in (self._host.run, self._report_for_ever)]
        for task in self._tasks:
            task.add_done_callback(_end_process)  # neither returns

    async def watch(self) -> None:
        """Returns after a moment, and fails at once when this actor dies.

        Not later: a call that is much older than this incarnation could tell of the one before.
        """
        await asyncio.sleep(_WATCH_S)

    async def _report_for_ever(self) -> None:
        ending: asyncio.Task[None] | None = None
        while True:
            orders = await self._report()
            if orders is not None:
                self._heard_at = time.monotonic()
                self._host.allow(orders)
                if orders.must_end and ending is None:
                    ending = asyncio.create_task(self._host.end())
            elif time.monotonic() - self._heard_at > _ORPHAN_S and ending is None:
                log.error("the directory of the fleet %s is gone; this core ends", self._spec.name)
                ending = asyncio.create_task(self._host.end())
                ending.add_done_callback(_end_for_good)
            await asyncio.sleep(REPORT_INTERVAL_S)

    async def _report(self) -> CoreOrders | None:
        """None where the directory does not answer."""
        try:
            directory: Any = self._directory
            if directory is None:
                directory = await asyncio.to_thread(ray.get_actor, self._spec.directory_name, NAMESPACE)
                self._directory = directory
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                orders: CoreOrders = await directory.report.remote(self._host.report())
                return orders
        except ray.exceptions.ActorDiedError:  # another one may have taken its name
            self._directory = None
        except (ray.exceptions.RayError, TimeoutError, ValueError) as error:  # ValueError: there is none
            log.debug("no answer of the directory: %s", error)
        return None


def _node_resources(node_id: str) -> Mapping[str, float]:
    nodes = ray.nodes()
    return next((node["Resources"] for node in nodes if node["NodeID"] == node_id), {})


def _own_address() -> str:
    address: str = ray.util.get_node_ip_address()
    return address


def _end_process(task: "asyncio.Task[None]") -> None:
    """Ray starts another one, here or elsewhere."""
    if not task.cancelled():
        log.error("the actor of a core failed", exc_info=task.exception())
    os._exit(1)


def _end_for_good(task: "asyncio.Task[None]") -> None:
    """Ray does not start it again."""
    ray.kill(ray.get_runtime_context().current_actor)
