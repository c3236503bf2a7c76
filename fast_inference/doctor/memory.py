"""Checks of memory: what there is, what limits it, and whether the model of these settings fits into it."""

import os
from pathlib import Path

from engine_core.cgroups import cgroup_folders, read_words
from engine_core.device import available_memory_bytes
from engine_core.memory_plan import format_bytes
from fast_inference.doctor.finding import Finding, Findings, Tell, fail, ok, warn
from fast_inference.settings import Settings
from ipc.config import FAKE_MODEL
from ipc.errors import ConfigError

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")
_SHM = Path("/dev/shm")
_MIN_SHM_BYTES = 16 * 2**20
_LIMIT_FILES = {1: "memory.limit_in_bytes", 2: "memory.max"}
_NO_LIMIT_BYTES = 2**60
"""What a cgroup of version 1 says where nothing limits it is above this."""


def check_memory(
    settings: Settings, tell: Tell, proc: Path = _PROC, cgroup: Path = _CGROUP, shm: Path = _SHM
) -> Findings:
    """Memory, the plan of a start, and shared memory."""
    yield _memory(proc, cgroup)
    yield _plan(settings)
    yield _shared_memory(shm)


def _memory(proc: Path, cgroup: Path) -> Finding:
    lines = (proc / "meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    available = available_memory_bytes(proc, cgroup)
    limits = [words[0] for folder, version in cgroup_folders("memory", proc, cgroup)
              if (words := read_words(folder / _LIMIT_FILES[version]))]  # fmt: skip
    limit = min((int(limit) for limit in limits if limit.isdecimal()), default=_NO_LIMIT_BYTES)
    limited = f", a cgroup limits it to {format_bytes(limit)}" if limit < min(total, _NO_LIMIT_BYTES) else ""
    return ok("memory", f"{format_bytes(available)} of {format_bytes(total)} available{limited}")


def _plan(settings: Settings) -> Finding:
    from fast_inference.cli_plan import plan_for
    from fast_inference.model_store import find_model

    if settings.model == FAKE_MODEL:
        return ok("plan", "the fake model needs none")
    try:
        find_model(settings.model, rope=settings.rope)
    except ConfigError:
        return ok("plan", f"not known before {settings.model} is here (see Model)")
    try:
        memory = plan_for(settings).memory
    except ConfigError as error:
        return fail("plan", f"{settings.model} {error.message}", "see `fast-inference plan` with the same flags")
    text = (
        f"{settings.model} takes {format_bytes(memory.needed_bytes)} of {format_bytes(memory.available_bytes)}: "
        f"weights {format_bytes(memory.weights_bytes)}, KV cache {format_bytes(memory.kv_cache_bytes)} for "
        f"{memory.max_concurrency:.1f} requests of {memory.max_model_len} tokens"
    )
    if memory.notes:
        return warn("plan", text, f"{'; '.join(memory.notes)}: free memory, or say --kv-cache-memory-bytes")
    return ok("plan", text)


def _shared_memory(shm: Path) -> Finding:
    fix = "in a container give it --shm-size=64m; programs beside the server may need it, the server itself does not"
    try:
        found = os.statvfs(shm)
    except OSError as error:
        return warn("/dev/shm", str(error.strerror), fix)
    free_bytes = found.f_bavail * found.f_frsize
    text = f"{format_bytes(free_bytes)} free"
    if free_bytes < _MIN_SHM_BYTES or not os.access(shm, os.W_OK):
        return warn("/dev/shm", text + ("" if os.access(shm, os.W_OK) else ", and not writable"), fix)
    return ok("/dev/shm", text)
