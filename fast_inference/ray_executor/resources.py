"""What each core asks Ray for, and what is said while no node has it. Pure: a node is its resources by name."""

from collections.abc import Mapping, Sequence

from fast_inference.ray_executor.fleet_spec import FleetSpec
from fast_inference.ray_executor.records import CoreResources
from ipc.config import FAKE_MODEL, core_range
from ipc.ray_config import MIN_RAY_AMOUNT

Node = Mapping[str, float]


def resources_of(spec: FleetSpec, nodes: Sequence[Node]) -> CoreResources:
    """A GPU, unless the model is to run on CPUs or no node has one, and so many CPUs.

    Without GPUs and where neither flag says otherwise, a core gets its share of the smallest node that has CPUs.
    """
    device, cpus = spec.settings["device"], spec.settings["ray_cpus_per_core"]
    has_gpus = any(node.get("GPU", 0) for node in nodes)
    wants_gpu = spec.settings["model"] != FAKE_MODEL and (device == "cuda" or (device == "auto" and has_gpus))
    if cpus is None:
        cpus = spec.settings["threads"]
    if cpus is None:
        cpus = 1 if wants_gpu else share_of_node(nodes, core_range(spec.settings["cores"])[1])
    return CoreResources(ray_amount(cpus), 1.0 if wants_gpu else 0.0)


def ray_amount(amount: float) -> float:
    """As Ray counts it, which refuses a third."""
    return max(round(amount, 4), MIN_RAY_AMOUNT)


def memory_share(resources: CoreResources, node: Node) -> float:
    """How much of a node's memory a core plans with: all where no other one has room there, else its part of the CPUs.

    With a GPU of its own it plans with the memory of that.
    """
    cpus = node.get("CPU", 0.0)
    has_room = cpus >= 2 * resources.num_cpus and not resources.num_gpus
    return resources.num_cpus / cpus if has_room else 1.0


def share_of_node(nodes: Sequence[Node], num_cores: int) -> int:
    """CPUs of each of so many cores: all of the smallest node where each has one of its own."""
    cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not cpus:
        return 1
    return max(1, min(cpus) // -(-num_cores // len(cpus)))


def num_places(resources: CoreResources, nodes: Sequence[Node]) -> int:
    """How many cores the nodes could hold, if they held nothing else."""
    wanted = {name: amount for name, amount in (("CPU", resources.num_cpus), ("GPU", resources.num_gpus)) if amount}
    return sum(min(int(node.get(name, 0.0) // amount) for name, amount in wanted.items()) for node in nodes)


def waiting_text(resources: CoreResources, nodes: Sequence[Node], num_cores: int) -> str:
    """`waiting for room: a core wants 1 GPU and 1 CPU; the nodes have 4 CPU; 8 CPU`; empty where so many cores fit."""
    if num_places(resources, nodes) >= num_cores:
        return ""
    have = [", ".join(f"{node.get(name, 0):g} {name}" for name in ("GPU", "CPU") if node.get(name)) for node in nodes]
    texts = "; ".join(filter(None, have)) or "none of these"
    return f"waiting for room: a core wants {resources}; the nodes have {texts}"
