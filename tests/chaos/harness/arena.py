"""Where a scenario takes place: a server, the oracle of its model, and what its processes held before anything broke.

Made by `command.py` and by the tests. A scenario that ends the server starts it again with `ensure`, on the same run
dir, as people do. Invariant: baseline and oracle are those of the first, undisturbed server, whatever came after it.
"""

import asyncio
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.chaos.harness.load import Load
from tests.chaos.harness.oracle import Oracle
from tests.chaos.harness.prober import ALL_KINDS, Prober
from tests.chaos.harness.questions import questions
from tests.chaos.harness.usage import Usage, files_of, roles, usage_of
from tests.processes import stats
from tests.servers import Server, is_running

FAKE_MODEL = "fake"
_MAX_GROWTH_BYTES = 64 * 2**20
"""Of a process over one scenario; what is really lost shows in the soak."""
_MAX_KV_CACHE_GROWTH_BYTES = 1024 * 2**20
"""Of the core of a real model: its KV cache gets its pages when blocks are first written."""
_SETTLE_S = 5.0


@dataclass
class Arena:
    """One server with all that belongs to it."""

    server: Server
    folder: Path
    model: str
    tokens: int
    """Most of each answer."""
    step_ms: float
    """Of the fake model."""
    seed: int
    flags: tuple[str, ...]
    """Of the server that runs now, beside those that all have."""
    oracle: Oracle
    baseline: dict[str, Usage]
    files: set[str]

    @property
    def port(self) -> int:
        """Of the server."""
        return int(self.server.url.rpartition(":")[2])

    @property
    def served_name(self) -> str:
        """By which requests ask for the model."""
        return _served_name(self.model)

    def ensure(self, *flags: str) -> None:
        """Have a server with these flags: the one that runs, or a new one on the same run dir."""
        if self.server.process.poll() is not None or flags != self.flags:
            self.server.close()
            self.server = Server(self.folder, self.model, *_flags_of(self.model, self.step_ms), *flags)
            self.flags = flags

    def rng(self, purpose: str) -> random.Random:
        """Random numbers that only the seed and the purpose decide."""
        return random.Random(f"{self.seed}, {purpose}")

    @property
    def hang_s(self) -> float:
        """An exchange that has not ended after this time hangs; a real model on a busy machine is slow."""
        return 60.0 if self.model == FAKE_MODEL else 300.0

    def load(self, purpose: str) -> Load:
        """Clients of the server."""
        return Load(self.port, self.oracle, f"{self.seed}, {purpose}", hang_s=self.hang_s)

    def prober(self, *kinds: str) -> Prober:
        """Probes of these kinds, or of all."""
        return Prober(self.port, self.served_name, kinds or ALL_KINDS, hang_s=self.hang_s)

    def pid(self, role: str) -> int:
        """Of a process that runs."""
        return roles(self.server)[role]

    def send(self, signum: signal.Signals, role: str) -> float:
        """Send a signal; returns when, in the time of `time.monotonic`."""
        now = time.monotonic()
        os.kill(self.pid(role), signum)
        return now

    async def until_ready(self, *, without: int = 0, timeout_s: float = 60.0) -> float:
        """Wait until the launcher says that all run and are ready, a killed process replaced; returns when that was.

        Raises:
            TimeoutError: they are not in time.
        """
        return await until(lambda: self._is_ready(without), timeout_s)

    def _is_ready(self, without: int) -> bool:
        status = self.server.status
        children = [status["core"], *status["frontends"]]
        pids = [child["pid"] for child in children]
        is_ready = status["state"] == "ready" and all(child["state"] == "ready" for child in children)
        return is_ready and without not in pids and all(is_running(pid) for pid in pids)

    async def until_idle(self, timeout_s: float = 30.0) -> float:
        """Wait until nothing runs or waits and all blocks are free; returns when that was.

        Raises:
            TimeoutError: it is not so in time.
        """
        with self.server.connect() as core:
            return await until(lambda: _is_idle(stats(core)), timeout_s)

    async def leaks(self) -> list[str]:
        """What the processes hold beyond the baseline, once they had time to let go; in words."""
        deadline = time.monotonic() + _SETTLE_S
        while (leaks := self._leaks()) and time.monotonic() < deadline:  # noqa: ASYNC110  of other processes
            await asyncio.sleep(0.1)
        return leaks

    def allow_thread(self, role: str) -> None:
        """One more than in the beginning is no leak."""
        usage = self.baseline[role]
        self.baseline[role] = replace(usage, num_threads=usage.num_threads + 1)

    def _leaks(self) -> list[str]:
        leaks = [f"file {name}" for name in sorted(files_of(self.server) ^ self.files)]
        for role, usage in usage_of(self.server).items():
            has_kv_cache = role == "core" and self.model != FAKE_MODEL
            limit_bytes = _MAX_KV_CACHE_GROWTH_BYTES if has_kv_cache else _MAX_GROWTH_BYTES
            leaks += [f"{role}: {words}" for words in usage.exceeds(self.baseline[role], limit_bytes)]
        return leaks


@asynccontextmanager
async def arena_of(
    model: str, seed: int, *flags: str, tokens: int = 200, step_ms: float = 20.0, num_questions: int = 50
) -> AsyncIterator[Arena]:
    """Start a server, get the reference answers, warm it up, and note what it holds; stopped in the end."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    server = Server(folder, model, *_flags_of(model, step_ms), *flags)
    arena: Arena | None = None
    try:
        catalogue = questions(_served_name(model), max_tokens=tokens, count=num_questions, seed=seed)
        oracle = await Oracle.undisturbed(int(server.url.rpartition(":")[2]), catalogue)
        arena = Arena(server, folder, model, tokens, step_ms, seed, flags, oracle, {}, files_of(server))
        await arena.load("warm-up").once(num_questions, stream=None)
        await arena.until_idle()
        await asyncio.sleep(0.2)  # the core lets go of the connection that asked
        arena.baseline = usage_of(server)
        arena.allow_thread("launcher")  # of the pool in which a reload reads files
        yield arena
    finally:
        (server if arena is None else arena.server).close()
        shutil.rmtree(folder)


def _flags_of(model: str, step_ms: float) -> list[str]:
    """Of every server: answers must not depend on what runs beside them."""
    flags = ["--log-level", "warning", "--max-num-seqs", "128"]
    return [*flags, *(["--fake-step-ms", str(step_ms)] if model == FAKE_MODEL else ["--dtype", "float32"])]


def _served_name(model: str) -> str:
    return "fake" if model == FAKE_MODEL else "fast-inference-model"


def _is_idle(numbers: dict[str, int | float | str]) -> bool:
    is_free = numbers["num_free_blocks"] == numbers["num_blocks"]
    return not numbers["num_running"] and not numbers["num_waiting"] and is_free


async def until(is_true: Callable[[], object], timeout_s: float) -> float:
    """Ask again and again; returns when it was true. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not is_true():  # noqa: ASYNC110  of another process
            await asyncio.sleep(0.01)
    return time.monotonic()
