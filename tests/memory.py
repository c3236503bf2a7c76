"""Peak memory of this process, for tests that bound it."""

import ctypes
from collections.abc import Callable


def peak_growth_bytes(run: Callable[[], object]) -> int:
    """How far the resident memory rises above where it is now while `run` runs, what is freed again included."""
    ctypes.CDLL(None).malloc_trim(0)  # else memory that earlier tests freed would be used unseen
    with open("/proc/self/clear_refs", "w") as clear_refs:
        clear_refs.write("5")  # the high-water mark starts anew
    before = _high_water_bytes()
    run()
    return _high_water_bytes() - before


def _high_water_bytes() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
