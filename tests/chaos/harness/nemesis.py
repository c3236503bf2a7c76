"""The nemesis: a plan of blows that a seed decides, carried out while clients ask.

A plan is made first and whole, so that the same seed strikes the same processes at the same times; what was done is in
`history`. Invariant: it ends with every process running and every limit as it was.
"""

import asyncio
import random
import resource
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from tests.chaos.harness.arena import Arena
from tests.chaos.harness.usage import Usage
from tests.junk_frames import junk_sent

_GAP_S = (0.5, 2.5)
"""Between two blows."""
_CORE_KILL_INTERVAL_S = 15.0
"""At least, so that it is no crash loop."""
_MAX_PAUSE_S = 3.0
_SPARE_FDS = 2
_NUM_JUNK = 200


class Blow(Enum):
    """What is done to a process."""

    KILL = "SIGKILL"
    STOP = "SIGSTOP, later SIGCONT"
    RELOAD = "SIGHUP: reload the core"
    JUNK = "junk on its socket"
    FD_LIMIT = "no file descriptors left for a while"


@dataclass(frozen=True)
class Strike:
    """One blow of a plan."""

    at_s: float
    """From the beginning."""
    blow: Blow
    role: str
    for_s: float = 0.0
    """How long it lasts, where it lasts."""

    def __str__(self) -> str:
        return f"{self.at_s:.2f} s {self.role}: {self.blow.value}" + (f" ({self.for_s:.2f} s)" if self.for_s else "")


_TARGETS = [
    *((Blow.KILL, role) for role in ("core", "frontend 0", "frontend 1")),
    *((Blow.STOP, role) for role in ("core", "launcher", "frontend 0", "frontend 1")),
    (Blow.JUNK, "core"),
    (Blow.RELOAD, "launcher"),
    *((Blow.FD_LIMIT, role) for role in ("frontend 0", "frontend 1")),
]


def plan(rng: random.Random, seconds: float) -> list[Strike]:
    """Blows over a span of time, one after the other."""
    strikes: list[Strike] = []
    at_s, core_killed_at = rng.uniform(*_GAP_S), float("-inf")
    while at_s < seconds:
        blow, role = rng.choice(_TARGETS)
        if (blow, role) == (Blow.KILL, "core"):
            if at_s - core_killed_at < _CORE_KILL_INTERVAL_S:
                continue
            core_killed_at = at_s
        for_s = rng.uniform(0.2, min(_MAX_PAUSE_S, seconds / 4)) if blow in (Blow.STOP, Blow.FD_LIMIT) else 0.0
        strikes.append(Strike(at_s, blow, role, for_s))
        at_s += for_s + rng.uniform(*_GAP_S)
    return strikes


class Nemesis:
    """Carries out a plan."""

    def __init__(self, arena: Arena, strikes: Sequence[Strike]) -> None:
        self.history: list[str] = []
        self.kills: list[tuple[float, str]] = []
        """When which process was killed, in the time of `time.monotonic`."""
        self._arena = arena
        self._strikes = strikes

    async def run(self) -> None:
        """All of it; a blow that hits nobody, since its process is being replaced, is noted and left out."""
        began_at = time.monotonic()
        for strike in self._strikes:
            await asyncio.sleep(max(0.0, began_at + strike.at_s - time.monotonic()))
            try:
                await self._carry_out(strike)
            except (ProcessLookupError, KeyError):
                self.history.append(f"{strike} (nobody there)")
            else:
                self.history.append(str(strike))

    async def _carry_out(self, strike: Strike) -> None:
        pid = self._arena.pid(strike.role)
        if strike.blow is Blow.KILL:
            self.kills.append((self._arena.send(signal.SIGKILL, strike.role), strike.role))
        elif strike.blow is Blow.RELOAD:
            self._arena.send(signal.SIGHUP, strike.role)
        elif strike.blow is Blow.STOP:
            self._arena.send(signal.SIGSTOP, strike.role)
            await asyncio.sleep(strike.for_s)
            self._arena.send(signal.SIGCONT, strike.role)
        elif strike.blow is Blow.JUNK:
            with junk_sent(self._arena.server.run_dir / "core.sock", self._arena.seed, _NUM_JUNK):
                await asyncio.sleep(0)
        else:
            soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (Usage.of(pid).num_fds + _SPARE_FDS, hard))
            await asyncio.sleep(strike.for_s)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
