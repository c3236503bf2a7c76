import pytest

from fast_inference.ray_executor.fleet_spec import FleetSpec
from fast_inference.ray_executor.records import CoreResources
from fast_inference.ray_executor.resources import memory_share, resources_of, share_of_node, waiting_text

CPU_NODES = [{"CPU": 8.0}, {"CPU": 4.0}, {"memory": 1.0}]
GPU_NODES = [{"CPU": 8.0}, {"CPU": 16.0, "GPU": 4.0}]


def spec(**settings):
    values = {"model": "models/mine", "device": "auto", "threads": None, "ray_cpus_per_core": None, "cores": 2}
    return FleetSpec("fleet", {**values, **settings}, {})


@pytest.mark.parametrize(
    ("settings", "nodes", "resources"),
    [
        ({}, GPU_NODES, CoreResources(1, 1)),
        ({"device": "cpu"}, GPU_NODES, CoreResources(8, 0)),
        ({"model": "fake"}, GPU_NODES, CoreResources(8, 0)),
        ({"device": "cuda"}, CPU_NODES, CoreResources(1, 1)),
        ({}, CPU_NODES, CoreResources(4, 0)),
        ({"cores": "1:4"}, CPU_NODES, CoreResources(2, 0)),
        ({"cores": 64}, CPU_NODES, CoreResources(1, 0)),
        ({"threads": 3}, CPU_NODES, CoreResources(3, 0)),
        ({"threads": 3, "ray_cpus_per_core": 0.5}, GPU_NODES, CoreResources(0.5, 1)),
        ({"ray_cpus_per_core": 1 / 3}, CPU_NODES, CoreResources(0.3333, 0)),
        ({}, [], CoreResources(1, 0)),
    ],
)
def test_what_a_core_asks_for(settings, nodes, resources):
    assert resources_of(spec(**settings), nodes) == resources


def test_more_cores_than_nodes_share_the_cpus_of_the_smallest():
    nodes = [{"CPU": 8.0}, {"CPU": 6.0}]
    assert [share_of_node(nodes, num_cores) for num_cores in (1, 2, 3, 4, 5, 40)] == [6, 6, 3, 3, 2, 1]


def test_what_is_said_while_there_is_no_room():
    text = waiting_text(CoreResources(2, 1), GPU_NODES, 5)
    assert text == "waiting for room: a core wants 1 GPU and 2 CPU; the nodes have 8 CPU; 4 GPU, 16 CPU"


def test_nothing_is_said_where_ray_only_takes_its_time():
    assert waiting_text(CoreResources(2, 1), GPU_NODES, 4) == ""


def test_what_is_said_where_no_node_has_anything():
    assert (
        waiting_text(CoreResources(1, 0), [], 1) == "waiting for room: a core wants 1 CPU; the nodes have none of these"
    )


@pytest.mark.parametrize(
    ("resources", "share"),
    [(CoreResources(2, 0), 0.25), (CoreResources(8, 0), 1.0), (CoreResources(5, 0), 1.0), (CoreResources(1, 1), 1.0)],
)
def test_cores_that_share_a_node_divide_its_memory(resources, share):
    assert memory_share(resources, {"CPU": 8.0}) == share
