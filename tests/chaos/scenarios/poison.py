"""A request that kills every core that computes it, sent again and again by a client that retries."""

import asyncio
import json
import time
from itertools import pairwise

from tests.chaos.harness.arena import Arena
from tests.chaos.harness.exchange import Exchange, ask
from tests.chaos.harness.figures import Figure, all_of
from tests.chaos.harness.load import Record, counts
from tests.chaos.harness.oracle import Outcome
from tests.chaos.harness.questions import post
from tests.chaos.harness.rounds import Rounds
from tests.chaos.harness.scale import Scale

FLAGS = ("--fake-faults", "poison@5")
_NUM_TRIES = 5
_UNREADY_S = 2.0
_MAX_RESTARTS = 2
_ALLOWED = (Outcome.EXACT, Outcome.REFUSED)
"""New requests are refused while there is no core."""


async def poison(arena: Arena, scale: Scale) -> list[Figure]:
    """A request that kills the core, sent five times: two restarts at most, then it is refused; all others complete."""
    rounds, restarts, num_refused = Rounds(arena, 15), [_num_restarts(arena)], 0
    beside: list[Record] = []
    for number in range(scale.rounds):
        load, enough = arena.load(f"poison, round {number}"), asyncio.Event()
        clients = asyncio.create_task(load.keep_busy(scale.streams, enough))
        await load.until_begun(scale.streams)
        sent_at = time.monotonic()
        for _ in range(_NUM_TRIES):
            exchange = await _ask_poison(arena, number)
            num_refused += _is_quarantined(exchange)
            await arena.until_ready()
        enough.set()
        await clients
        beside += load.under_way(sent_at)
        restarts.append(_num_restarts(arena))
        await rounds.end_round(load, load.ended_at, _ALLOWED)
    most_restarts = max(after - before for before, after in pairwise(restarts))
    num_exact = sum(record.outcome is Outcome.EXACT for record in beside)
    num_tries = _NUM_TRIES * scale.rounds
    return [
        Figure(15, "most restarts of the core for one such request", most_restarts, _MAX_RESTARTS),
        all_of(15, "tries refused with 500 request_quarantined, not to be retried", num_refused, num_tries),
        all_of(15, "streams beside it that are exact", num_exact, len(beside), detail=counts(beside)),
        *rounds.figures(),
    ]


def _num_restarts(arena: Arena) -> int:
    """Of the core, by the launcher's log."""
    return sum("engine core" in line and "restart in" in line for line in arena.server.stderr.splitlines())


async def _ask_poison(arena: Arena, number: int) -> Exchange:
    body = {"model": arena.served_name, "prompt": f"poison of round {number}", "max_tokens": 20, "ignore_eos": True}
    deadline = time.monotonic() + _UNREADY_S
    while True:
        exchange = await ask(arena.port, post("/v1/completions", json.dumps(body).encode()))
        if exchange.status != 503 or time.monotonic() > deadline:
            return exchange
        await asyncio.sleep(0.05)  # this frontend has not found the new core yet, although another one has


def _is_quarantined(exchange: Exchange) -> bool:
    if exchange.status != 500 or exchange.headers.get("x-should-retry") != "false":
        return False
    return bool(json.loads(bytes(exchange.body))["error"]["code"] == "request_quarantined")
