"""Processes that are stopped for a while and go on; and a core that computes one long step, which is no fault."""

import asyncio
import json
import signal
import time

from tests.chaos.harness.arena import Arena
from tests.chaos.harness.exchange import ask
from tests.chaos.harness.figures import Figure, all_of, none_of
from tests.chaos.harness.load import Record, counts
from tests.chaos.harness.oracle import Outcome
from tests.chaos.harness.questions import post
from tests.chaos.harness.rounds import Rounds
from tests.chaos.harness.scale import Scale
from tests.chaos.harness.usage import roles

_ALLOWED = (Outcome.EXACT, Outcome.REFUSED)
"""Requests that come while the core does not answer may be refused."""


async def core_stop(arena: Arena, scale: Scale) -> list[Figure]:
    """SIGSTOP of the core for a while, then SIGCONT: every stream completes and is exact."""
    return await _stop_and_continue(arena, scale, "core")


async def frontend_pause(arena: Arena, scale: Scale) -> list[Figure]:
    """SIGSTOP of a frontend for less than its lease, then SIGCONT: every stream completes and is exact."""
    return await _stop_and_continue(arena, scale, "frontend 0")


async def launcher_stop(arena: Arena, scale: Scale) -> list[Figure]:
    """SIGSTOP of the launcher for a while, then SIGCONT: nobody notices."""
    return await _stop_and_continue(arena, scale, "launcher")


async def _stop_and_continue(arena: Arena, scale: Scale, role: str) -> list[Figure]:
    rounds, restarts = Rounds(arena, 6), []
    hit: list[Record] = []
    for number in range(scale.rounds):
        load, enough = arena.load(f"{role} stops, round {number}"), asyncio.Event()
        clients = asyncio.create_task(load.keep_busy(scale.streams, enough))
        await load.until_begun(scale.streams)
        before = roles(arena.server)
        stopped_at = arena.send(signal.SIGSTOP, role)
        hit += load.under_way(stopped_at)
        await asyncio.sleep(scale.pause_s)
        arena.send(signal.SIGCONT, role)
        await asyncio.sleep(0.5)
        enough.set()
        await clients
        if roles(arena.server) != before:
            restarts.append(f"{before} became {roles(arena.server)}")
        await rounds.end_round(load, load.ended_at, _ALLOWED)
    num_exact = sum(record.outcome is Outcome.EXACT for record in hit)
    what = f"streams that are exact, {role} stopped for {scale.pause_s:.0f} s"
    return [
        all_of(6, what, num_exact, len(hit), detail=counts(hit)),
        none_of(6, "processes that were replaced", restarts),
        *rounds.figures(),
    ]


async def long_prefill(arena: Arena, scale: Scale) -> list[Figure]:
    """The longest prefill that is allowed, under load: readiness stays 200 and nothing is restarted."""
    rounds, load, enough = Rounds(arena, 8), arena.load("long prefill"), asyncio.Event()
    before = roles(arena.server)
    clients = asyncio.create_task(load.keep_busy(scale.streams, enough))
    await load.until_begun(scale.streams)
    started_at, slowest_s = time.monotonic(), 0.0
    async with arena.prober("ready", "live") as prober:
        for number in range(scale.rounds):
            slowest_s = max(slowest_s, await _longest_prefill(arena, number))
    enough.set()
    await clients
    unhealthy = [probe for kind in ("ready", "live") for probe in prober.of(kind, started_at)]
    num_probes = len(unhealthy)
    unhealthy = [probe for probe in unhealthy if probe.exchange.status != 200]
    changed = [] if roles(arena.server) == before else [f"{before} became {roles(arena.server)}"]
    await rounds.end_round(load, load.ended_at, (Outcome.EXACT,))
    return [
        Figure(8, "slowest answer to the longest prompt", slowest_s, scale.pause_s, "", is_at_least=True),
        none_of(8, f"probes that did not say 200, of {num_probes}", unhealthy),
        none_of(8, "processes that were replaced", changed),
        *rounds.figures(),
    ]


async def _longest_prefill(arena: Arena, number: int) -> float:
    """Ask with a prompt that fills the context, of which nothing is cached; returns how many seconds that took.

    Raises:
        RuntimeError: it is not answered.
    """
    with arena.server.connect() as core:
        welcome = core.session.welcome
    assert welcome is not None
    rng = arena.rng(f"longest prefill {number}")
    token_ids = [rng.randrange(97, 122) for _ in range(welcome.max_model_len - 1)]
    body = {"model": arena.served_name, "prompt": token_ids, "max_tokens": 1, "ignore_eos": True}
    exchange = await ask(arena.port, post("/v1/completions", json.dumps(body).encode()), hang_s=300)
    if exchange.status != 200:
        raise RuntimeError(f"the longest prompt was not answered: {exchange.status} {bytes(exchange.body)!r}")
    return exchange.seconds
