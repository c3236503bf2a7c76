"""Which CPUs each of several cores computes on: sets that do not overlap, of the CPUs that the launcher may use.

Used by `core_shares.py`. CPUs are put in order by NUMA node, package and physical core, and cut into runs of whole
physical cores, so that hardware threads of one physical core stay together, and nodes as far as their number allows.
Invariant: together the sets are all CPUs that were given, each of them once.
"""

import os
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

_SYS = Path("/sys/devices/system/cpu")
_UNKNOWN = 0


def divide_cpus(cpus: Iterable[int], num_sets: int, sys: Path = _SYS) -> list[tuple[int, ...]]:
    """So many sets, whose sizes differ by one physical core at most; by one CPU where there are fewer of those.

    Args:
        cpus: at least `num_sets`.
        num_sets: how many sets.
        sys: what the kernel says about CPUs.
    """
    by_place: dict[tuple[int, int, int], list[int]] = {}
    for cpu in sorted(cpus):
        by_place.setdefault(_place(cpu, sys), []).append(cpu)
    units = [by_place[place] for place in sorted(by_place)]
    if len(units) < num_sets:
        units = [[cpu] for unit in units for cpu in unit]
    bounds = [index * len(units) // num_sets for index in range(num_sets + 1)]
    runs = [units[start:end] for start, end in pairwise(bounds)]
    return [tuple(sorted(cpu for unit in run for cpu in unit)) for run in runs]


def allowed_cpus() -> set[int]:
    """Those in the affinity mask of this process."""
    return os.sched_getaffinity(0)


def _place(cpu: int, sys: Path) -> tuple[int, int, int]:
    """NUMA node, package, and physical core by the number of its first hardware thread."""
    folder = sys / f"cpu{cpu}"
    nodes = [int(path.name[4:]) for path in folder.glob("node[0-9]*")]
    siblings = _text(folder / "topology" / "thread_siblings_list").replace("-", ",").split(",")[0]
    package = _text(folder / "topology" / "physical_package_id")
    return (
        min(nodes, default=_UNKNOWN),
        int(package) if package.isdecimal() else _UNKNOWN,
        int(siblings) if siblings.isdecimal() else cpu,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # the kernel of a container may not say
        return ""
