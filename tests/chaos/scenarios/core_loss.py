"""The engine core is killed, again and again, while streams run."""

import asyncio
import math
import signal
import time
from dataclasses import dataclass, field

from fast_inference.restart_policy import CRASH_WINDOW_S, MAX_CORE_CRASHES
from tests.chaos.harness.arena import Arena
from tests.chaos.harness.figures import Figure, all_of, at_most, none_of
from tests.chaos.harness.load import Record, counts
from tests.chaos.harness.oracle import Outcome
from tests.chaos.harness.prober import Probe, Prober
from tests.chaos.harness.rounds import Rounds
from tests.chaos.harness.scale import Scale

DETECTION_GOAL_S = 1.0
_RESUMED_SHARE = 0.95
_REFUSAL_GOAL_MS = 100.0
_ALLOWED = (Outcome.EXACT, Outcome.FAILED, Outcome.REFUSED)
_UNREADY_GOAL_S = 6.0
HANG_TIMEOUT_S = 10.0
"""Of its server; the usual one is longer."""
_SPACING_S = CRASH_WINDOW_S / (MAX_CORE_CRASHES - 1) + 1
"""Between two kills of many."""
_AFTERWARDS_S = 0.5
"""So long the load goes on when the server is ready again."""


@dataclass
class _Kills:
    """Figures of all rounds."""

    detection_s: list[float] = field(default_factory=list)
    gap_s: list[float] = field(default_factory=list)
    hit: list[Record] = field(default_factory=list)
    """Streams that were under way when the core was killed."""
    ended_s: list[float] = field(default_factory=list)
    """How long after the kill those of them ended that ended in an error."""
    refused_ms: list[float] = field(default_factory=list)
    badly_refused: list[object] = field(default_factory=list)
    not_live: list[object] = field(default_factory=list)

    def probes(self, prober: Prober, killed_at: float, ready_at: float) -> None:
        """Take what was probed between the kill and the end of the gap."""
        noticed_at = prober.first_unready(killed_at)
        self.detection_s.append(float("inf") if noticed_at is None else noticed_at - killed_at)
        self.gap_s.append(ready_at - killed_at)
        self.not_live += [probe for probe in prober.of("live", killed_at) if probe.exchange.status != 200]
        for probe in prober.of("request", killed_at):
            if probe.is_refusal:
                self.refused_ms.append(1e3 * probe.exchange.seconds)
            elif probe.exchange.status != 200:
                self.badly_refused.append(probe)


async def core_kill_resume(arena: Arena, scale: Scale) -> list[Figure]:
    """`kill -9` of the core under streams: seen in a second, streams go on after a pause and are exact."""
    kills, rounds = await _kill_rounds(arena, scale)
    num_exact = sum(record.outcome is Outcome.EXACT for record in kills.hit)
    return [
        *_common(kills),
        all_of(4, "streams that resumed and are exact", num_exact, len(kills.hit), _RESUMED_SHARE, counts(kills.hit)),
        *rounds.figures(),
    ]


async def core_kill_fail(arena: Arena, scale: Scale) -> list[Figure]:
    """`kill -9` of the core with `--on-core-loss fail`: what has begun ends with an error event in two seconds."""
    kills, rounds = await _kill_rounds(arena, scale)
    num_failed = sum(record.outcome is Outcome.FAILED for record in kills.hit)
    return [
        *_common(kills),
        Figure(4, f"streams that ended in an error, of {len(kills.hit)}", num_failed, 1, is_at_least=True),
        at_most(4, "until the last stream had its error", kills.ended_s, 2.0, "s"),
        *rounds.figures(),
    ]


async def core_hang(arena: Arena, scale: Scale) -> list[Figure]:
    """SIGSTOP of the core for ever: not ready within six seconds, replaced after `--hang-timeout`, streams go on."""
    unready_s, replaced_s, rounds = [], [], Rounds(arena, 7)
    badly_refused: list[Probe] = []
    hit: list[Record] = []
    for number in range(scale.rounds):
        load, enough = arena.load(f"core hangs, round {number}"), asyncio.Event()
        clients = asyncio.create_task(load.keep_busy(scale.streams, enough))
        await load.until_begun(scale.streams)
        async with arena.prober("ready", "request") as prober:
            core = arena.pid("core")
            stopped_at = arena.send(signal.SIGSTOP, "core")
            hit += load.under_way(stopped_at)
            replaced_s.append(await arena.until_ready(without=core, timeout_s=90) - stopped_at)
            await asyncio.sleep(_AFTERWARDS_S)
        enough.set()
        await clients
        unready_s.append((prober.first_unready(stopped_at) or float("inf")) - stopped_at)
        later = prober.of("request", stopped_at + _UNREADY_GOAL_S)
        badly_refused += [probe for probe in later if probe.exchange.status != 200 and not probe.is_refusal]
        await rounds.end_round(load, load.ended_at, _ALLOWED)
    num_exact = sum(record.outcome is Outcome.EXACT for record in hit)
    return [
        at_most(7, "until readiness is 503", unready_s, _UNREADY_GOAL_S, "s"),
        none_of(7, "requests after that which got neither an answer nor 503", badly_refused),
        at_most(7, "until the core is replaced", replaced_s, HANG_TIMEOUT_S + 5, "s"),
        all_of(7, "streams that resumed and are exact", num_exact, len(hit), _RESUMED_SHARE, counts(hit)),
        *rounds.figures(),
    ]


async def _kill_rounds(arena: Arena, scale: Scale) -> tuple[_Kills, Rounds]:
    kills, rounds, killed_at = _Kills(), Rounds(arena, 4), -math.inf
    for number in range(scale.rounds):
        if scale.rounds >= MAX_CORE_CRASHES:  # so many in a minute would be a crash loop
            await asyncio.sleep(killed_at + _SPACING_S - time.monotonic())
        load, enough = arena.load(f"core kill, round {number}"), asyncio.Event()
        clients = asyncio.create_task(load.keep_busy(scale.streams, enough))
        await load.until_begun(scale.streams)
        await asyncio.sleep(arena.rng(f"core kill, round {number}").uniform(0, 0.5))
        async with arena.prober() as prober:
            core = arena.pid("core")
            killed_at = arena.send(signal.SIGKILL, "core")
            hit = load.under_way(killed_at)
            ready_at = await arena.until_ready(without=core)
            await asyncio.sleep(_AFTERWARDS_S)
        enough.set()
        await clients
        kills.hit += hit
        kills.ended_s += [record.exchange.ended_at - killed_at for record in hit if record.outcome is Outcome.FAILED]
        kills.probes(prober, killed_at, ready_at)
        await rounds.end_round(load, load.ended_at, _ALLOWED)
    return kills, rounds


def _common(kills: _Kills) -> list[Figure]:
    num_refused = len(kills.refused_ms)
    return [
        at_most(4, "until a frontend was not ready any more", kills.detection_s, DETECTION_GOAL_S, "s"),
        at_most(4, "from the kill until all is ready again", kills.gap_s, 10.0, "s"),
        none_of(5, "requests in the gap that got neither an answer nor 503 with Retry-After", kills.badly_refused),
        Figure(5, "requests in the gap that were refused with 503", num_refused, 1, is_at_least=True),
        at_most(5, "slowest of these refusals", kills.refused_ms or [float("inf")], _REFUSAL_GOAL_MS, "ms"),
        none_of(5, "liveness probes that failed", kills.not_live),
    ]
