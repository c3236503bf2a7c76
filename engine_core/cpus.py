"""How many threads may compute: the CPUs that this process is allowed, within the time that its cgroups grant.

Called by `memory_plan.plan_model`. A thread more than the quota pays for would be stopped in every period, and all
others wait for it at the next barrier: so a quota of 2.5 CPUs makes two threads.
"""

import math
import os
from pathlib import Path

from engine_core.cgroups import cgroup_folders, read_words


def available_cpus(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs in the affinity mask of this process, but at most as many as the quota has whole ones; at least one."""
    return max(1, math.floor(min(len(os.sched_getaffinity(0)), cpu_quota(proc, cgroup))))


def cpu_quota(proc: Path, cgroup: Path) -> float:
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
