from hypothesis import given
from hypothesis import strategies as st

from fast_inference.cpu_sets import divide_cpus


def write_sys(root, places):
    """What the kernel says of CPUs: (NUMA node, package, siblings) of each."""
    for cpu, (node, package, siblings) in places.items():
        (root / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (root / f"cpu{cpu}" / f"node{node}").mkdir()
        (root / f"cpu{cpu}" / "topology" / "physical_package_id").write_text(f"{package}\n")
        (root / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(f"{siblings}\n")
    return root


def test_hardware_threads_of_a_physical_core_stay_together(tmp_path):
    sys = write_sys(tmp_path, {cpu: (0, 0, f"{cpu % 4},{cpu % 4 + 4}") for cpu in range(8)})
    assert divide_cpus(range(8), 2, sys) == [(0, 1, 4, 5), (2, 3, 6, 7)]
    assert divide_cpus(range(8), 3, sys) == [(0, 4), (1, 5), (2, 3, 6, 7)]


def test_numa_nodes_stay_together_whatever_their_numbers(tmp_path):
    sys = write_sys(tmp_path, {cpu: (cpu % 2, cpu % 2, f"{cpu}") for cpu in range(8)})
    assert divide_cpus(range(8), 2, sys) == [(0, 2, 4, 6), (1, 3, 5, 7)]
    assert divide_cpus(range(8), 4, sys) == [(0, 2), (4, 6), (1, 3), (5, 7)]


def test_with_fewer_physical_cores_than_sets_their_hardware_threads_are_divided(tmp_path):
    sys = write_sys(tmp_path, {cpu: (0, 0, "0-1" if cpu < 2 else "2-3") for cpu in range(4)})
    assert divide_cpus(range(4), 3, sys) == [(0,), (1,), (2, 3)]


def test_only_cpus_that_may_be_used_are_divided(tmp_path):
    sys = write_sys(tmp_path, {cpu: (0, 0, f"{cpu % 4},{cpu % 4 + 4}") for cpu in range(8)})
    assert divide_cpus({1, 5, 6, 7}, 2, sys) == [(1, 5), (6, 7)]


def test_where_the_kernel_says_nothing_cpus_are_taken_in_order(tmp_path):
    assert divide_cpus(range(5), 2, tmp_path) == [(0, 1), (2, 3, 4)]


@given(st.sets(st.integers(0, 300), min_size=1, max_size=200), st.data())
def test_each_cpu_is_in_one_set_and_no_set_is_empty(tmp_path_factory, cpus, data):
    num_sets = data.draw(st.integers(1, len(cpus)))
    sets = divide_cpus(cpus, num_sets, tmp_path_factory.getbasetemp())
    assert sorted(cpu for cpu_set in sets for cpu in cpu_set) == sorted(cpus)
    assert len(sets) == num_sets
    assert min(map(len, sets)) >= max(map(len, sets)) - 1 >= 0
