"""The Ray that a job runs on: joined or started, asked for its resources, and left.

Used by `run.py`. Ray is imported here and nowhere before, so that nobody else needs it installed.
"""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fast_inference.ray_executor.fleet import check_installed
from fast_inference.ray_executor.records import CoreResources
from fast_inference.ray_executor.resources import memory_share, ray_amount, share_of_node
from ipc.errors import ConfigError

_CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class WorkerShape:
    """How many workers there are, and what Ray sets aside for each."""

    min_workers: int
    max_workers: int
    num_cpus: float
    num_gpus: float
    memory_share: float = 1.0
    """How much of its node's memory each may plan with."""

    def __str__(self) -> str:
        """For people."""
        fewest, most = self.min_workers, self.max_workers
        count = (
            f"{fewest} to {most} cores, each" if fewest < most else f"{fewest} cores, each" if most > 1 else "1 core"
        )
        gpus = f" and {self.num_gpus:g} GPUs" if self.num_gpus else ""
        return f"{count} with {self.num_cpus:g} CPUs{gpus}"


@contextmanager
def joined_ray(address: str | None) -> Iterator[None]:
    """Join the cluster at this address, else that of RAY_ADDRESS; else start one here, which asks for a token.

    Raises:
        ConfigError: Ray is not installed, or cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    check_installed()
    import ray
    import ray.data

    address = address or os.environ.get("RAY_ADDRESS") or "local"
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        _check_reachable(address)
        ray.init(address=address, logging_level=logging.ERROR, **own)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigError(f"cannot join Ray at {address}: {' '.join(str(error).split())}") from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        for name in ("ray.data", "ray.anyscale.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes. Raises `OSError`."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()


def worker_shape(cores: tuple[int, int] | None, num_cpus: float | None, num_gpus: float | None) -> WorkerShape:
    """What is asked for, with what the cluster has in the place of what is not.

    Where there are GPUs, a worker for each of them; else one for each node, with all CPUs of the smallest one, or where
    more are asked for, an equal part of them.

    Raises:
        ConfigError: no node can have such a worker, now at least.
    """
    from fast_inference.ray_executor.follower import alive_nodes  # imports Ray

    nodes = alive_nodes()
    num_cpus = None if num_cpus is None else ray_amount(num_cpus)
    cluster_gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if num_gpus is None:
        num_gpus = 1 if cluster_gpus else 0
    fitting = [node for node in nodes if node.get("CPU", 0) >= (num_cpus or 1) and node.get("GPU", 0) >= num_gpus]
    if not fitting:
        most = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise ConfigError(
            f"no node of Ray has {num_cpus or 1:g} CPUs and {num_gpus:g} GPUs for a core (there are: {most})"
        )
    if num_cpus is None:
        num_cpus = 1 if num_gpus else share_of_node(fitting, len(fitting) if cores is None else cores[1])
    if cores is None:
        count = int(cluster_gpus // num_gpus) if num_gpus else len(fitting)
        cores = (max(count, 1),) * 2
    share = min(memory_share(CoreResources(num_cpus, num_gpus), node) for node in fitting)
    return WorkerShape(*cores, num_cpus, num_gpus, share)


def actor_pool(shape: WorkerShape, num_calls: int) -> dict[str, Any]:
    """Arguments of `map_batches` for such workers, each of which takes so many calls at once."""
    import ray.data

    sizes = {"min_size": 1, "initial_size": shape.min_workers, "max_size": shape.max_workers}
    sizes |= {"max_tasks_in_flight_per_actor": num_calls, "max_concurrent_calls_per_actor": num_calls}
    pool = ray.data.ActorPoolStrategy(**sizes, enable_true_multi_threading=True)
    return {"num_cpus": shape.num_cpus, "num_gpus": shape.num_gpus, "compute": pool}
