"""Facts about processes: who is alive, is it still the same one, and dying together with a parent.

Used by the launcher's children, by the core (to see a frontend die) and by clients (to see the core die).
"""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

from ipc.errors import ConfigError

LAUNCHER_PID_VARIABLE = "FAST_INFERENCE_LAUNCHER_PID"
"""Set by the launcher for its children; has the prefix of the settings but is none."""
STACK_DUMP_SIGNAL = signal.SIGUSR1
"""On which the core writes the stacks of all its threads to stderr."""
_PR_SET_PDEATHSIG = 1
_ENDED = ("Z", "X")
"""Letters of states in `/proc/PID/stat`."""


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; the first thing that a child does.

    Raises:
        ConfigError: the kernel refuses.
    """
    parent_pid = os.environ.get(LAUNCHER_PID_VARIABLE)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise ConfigError(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if parent_pid is not None and os.getppid() != int(parent_pid):
        os._exit(1)  # the parent died between fork and prctl


def raise_descriptor_limit() -> int:
    """Let this process have as many open files as the system allows it; returns how many those are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else sys.maxsize


def start_ticks(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 if there is no such process."""
    return _state_and_start(pid)[1]


def is_running(pid: int, expected_start_ticks: int) -> bool:
    """True if this very process has not ended; one that has, and that its parent has not seen yet, does not run."""
    state, ticks = _state_and_start(pid)
    return ticks == expected_start_ticks and state not in _ENDED


def _state_and_start(pid: int) -> tuple[str, int]:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", 0
    values = stat.rpartition(")")[2].split()
    return values[0], int(values[19])


def pid_namespace() -> int:
    """Inode of this process's pid namespace; pids can be compared only within one."""
    return os.stat("/proc/self/ns/pid").st_ino


def open_pidfd(pid: int, expected_start_ticks: int | None = None) -> int | None:
    """A descriptor that becomes readable when the process ends; None if it is gone already.

    With `expected_start_ticks`, a later process with the same pid counts as gone.

    Raises:
        OSError: it cannot be watched (no such pid is possible, no descriptors are left).
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if expected_start_ticks is not None and start_ticks(pid) != expected_start_ticks:
        os.close(pidfd)
        return None
    return pidfd
