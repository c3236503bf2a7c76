"""How many threads compute: quotas of both versions of cgroups, along the whole path."""

import math
import os

import pytest

from engine_core.cpus import available_cpus, cpu_quota, format_cpus, parse_cpus


def write_system(root, cgroup_line, files):
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(cgroup_line + "\n")
    for name, content in files.items():
        path = root / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root / "proc", root / "cgroup"


@pytest.mark.parametrize(
    ("cgroup_line", "files", "quota"),
    [
        ("0::/a", {"a/cpu.max": "250000 100000"}, 2.5),
        ("0::/a", {"a/cpu.max": "max 100000"}, math.inf),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "50000 100000", "a/cpu.max": "150000 100000"}, 0.5),
        ("0::/", {"cpu.max": "300000 100000"}, 3.0),
        ("0::/a", {}, math.inf),
        ("4:cpu,cpuacct:/x", {"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "100000"}, 2.0),
        ("4:cpu,cpuacct:/x", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, math.inf),
        ("4:cpu:/x/y", {"cpu/x/cpu.cfs_quota_us": "70000", "cpu/x/cpu.cfs_period_us": "50000"}, 1.4),
        ("5:memory:/x", {"cpu/x/cpu.cfs_quota_us": "70000", "cpu/x/cpu.cfs_period_us": "50000"}, math.inf),
    ],
)
def test_the_quota_is_that_of_the_strictest_cgroup(tmp_path, cgroup_line, files, quota):
    assert cpu_quota(*write_system(tmp_path, cgroup_line, files)) == quota


def test_threads_fit_into_the_quota_and_there_is_always_one(tmp_path):
    assert available_cpus(*write_system(tmp_path / "a", "0::/", {"cpu.max": "199999 100000"})) == 1
    assert available_cpus(*write_system(tmp_path / "b", "0::/", {"cpu.max": "30000 100000"})) == 1


def test_without_a_quota_the_allowed_cpus_count(tmp_path):
    assert available_cpus(tmp_path, tmp_path) == len(os.sched_getaffinity(0))


def test_cores_that_share_a_quota_have_equal_parts_of_it(tmp_path):
    system = write_system(tmp_path, "0::/", {"cpu.max": "200000 100000"})
    num_allowed = len(os.sched_getaffinity(0))
    assert available_cpus(*system, num_cores=2) == 1
    assert available_cpus(*system) == min(2, num_allowed)


@pytest.mark.parametrize(
    ("cpus", "text"), [([0], "0"), ([3, 1, 2], "1-3"), ([0, 1, 4, 6, 7], "0-1,4,6-7"), (range(64), "0-63")]
)
def test_cpus_are_written_as_the_kernel_lists_them(cpus, text):
    assert format_cpus(cpus) == text
    assert parse_cpus(text) == set(cpus)


@pytest.mark.parametrize("text", ["", "a", "-1", "1,,2"])
def test_what_is_no_list_of_cpus_is_refused(text):
    with pytest.raises(ValueError, match="invalid literal"):
        parse_cpus(text)
