"""How many threads may compute: the CPUs that this process is allowed, within the time that its cgroups grant.

Called by `memory_plan.plan_model`. A thread more than the quota pays for would be stopped in every period, and all
others wait for it at the next barrier: so a quota of 2.5 CPUs makes two threads.
"""

import math
import os
from collections.abc import Iterable
from pathlib import Path

from engine_core.cgroups import cgroup_folders, read_words

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def available_cpus(proc: Path = _PROC, cgroup: Path = _CGROUP, *, num_cores: int = 1) -> int:
    """CPUs in the affinity mask of this process, but at most as many as the quota has whole ones; at least one.

    So many engine cores have equal parts of the quota; their masks do not overlap.
    """
    return max(1, math.floor(min(len(os.sched_getaffinity(0)), cpu_quota(proc, cgroup) / num_cores)))


def format_cpus(cpus: Iterable[int]) -> str:
    """CPUs as the kernel lists them, such as `0-3,8`."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and cpu == ranges[-1][-1] + 1:
            ranges[-1][1:] = [cpu]
        else:
            ranges.append([cpu])
    return ",".join("-".join(map(str, ends)) for ends in ranges)


def parse_cpus(text: str) -> set[int]:
    """The same, read; raises `ValueError` where it is no such list."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        cpus |= set(range(int(first), int(last or first) + 1))
    return cpus


def cpu_quota(proc: Path = _PROC, cgroup: Path = _CGROUP) -> float:
    """CPUs' worth of time that the strictest cgroup above this process grants; infinite where none limits it."""
    quota = math.inf
    for folder, version in cgroup_folders("cpu", proc, cgroup):
        if version == 2:
            words = read_words(folder / "cpu.max")
        else:
            words = read_words(folder / "cpu.cfs_quota_us") + read_words(folder / "cpu.cfs_period_us")
        if len(words) == 2 and all(word.isdecimal() for word in words):  # else "max", or -1 for no limit
            quota = min(quota, int(words[0]) / int(words[1]))
    return quota
