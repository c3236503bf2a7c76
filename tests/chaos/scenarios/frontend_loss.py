"""A frontend is killed, or stopped for longer than the core waits for it, while the other one serves on."""

import asyncio
import json
import signal
import time
from dataclasses import dataclass, field

from tests.chaos.harness.arena import Arena, until
from tests.chaos.harness.exchange import ask
from tests.chaos.harness.figures import Figure, all_of, at_most
from tests.chaos.harness.load import Load, Record, counts
from tests.chaos.harness.oracle import Outcome
from tests.chaos.harness.questions import get, post
from tests.chaos.harness.rounds import Rounds
from tests.chaos.harness.scale import Scale
from tests.chaos.harness.usage import peer_ports
from tests.processes import stats

_FREED_GOAL_S = 2.0
_REPLACED_GOAL_S = 5.0
_NUM_SHORT_REQUESTS = 16


@dataclass
class _Streams:
    """Of all rounds: those on the frontend that is hurt, and those on others."""

    hurt: list[Record] = field(default_factory=list)
    others: list[Record] = field(default_factory=list)

    def take(self, load: Load, ports: set[int]) -> None:
        """Sort by the ports of the clients of the hurt frontend."""
        for record in load.records:
            (self.hurt if record.exchange.local_port in ports else self.others).append(record)


async def frontend_kill(arena: Arena, scale: Scale) -> list[Figure]:
    """`kill -9` of a frontend under streams: its blocks are free at once, the others' streams are exact."""
    freed_s, replaced_s, num_served = [], [], 0
    streams, rounds = _Streams(), Rounds(arena, 9)
    for number in range(scale.rounds):
        victim, load = f"frontend {number % 2}", arena.load(f"frontend kill, round {number}")
        clients = await _long_streams(arena, 2 * scale.streams, load)
        pid = arena.pid(victim)
        ports = peer_ports(pid, arena.port)
        killed_at = arena.send(signal.SIGKILL, victim)
        freed_s.append(await _until_only_others_run(arena, load, ports) - killed_at)
        await arena.until_ready(without=pid)
        replaced_s.append(await _until_it_serves(arena, arena.pid(victim)) - killed_at)
        num_served += await _num_answered(arena, _NUM_SHORT_REQUESTS)
        await clients
        streams.take(load, ports)
        await rounds.end_round(load, load.ended_at, (Outcome.EXACT, Outcome.LOST))
    num_exact = sum(record.outcome is Outcome.EXACT for record in streams.others)
    return [
        Figure(9, "streams on the killed frontend", len(streams.hurt), 1, is_at_least=True),
        at_most(9, "until the core runs only the requests of others", freed_s, _FREED_GOAL_S, "s"),
        all_of(9, "streams on the other frontend that are exact", num_exact, len(streams.others)),
        at_most(9, "until the replacement serves", replaced_s, _REPLACED_GOAL_S, "s"),
        all_of(9, "requests answered after that", num_served, scale.rounds * _NUM_SHORT_REQUESTS),
        *rounds.figures(),
    ]


async def frontend_stop(arena: Arena, scale: Scale) -> list[Figure]:
    """SIGSTOP of a frontend for longer than its lease: its streams are exact or end in an error, none with a gap."""
    streams, rounds = _Streams(), Rounds(arena, 10)
    for number in range(scale.rounds):
        victim, load = f"frontend {number % 2}", arena.load(f"frontend stop, round {number}")
        clients = await _long_streams(arena, 2 * scale.streams, load)
        ports = peer_ports(arena.pid(victim), arena.port)
        arena.send(signal.SIGSTOP, victim)
        await asyncio.sleep(scale.pause_s)
        arena.send(signal.SIGCONT, victim)
        await clients
        streams.take(load, ports)
        await rounds.end_round(load, load.ended_at, (Outcome.EXACT, Outcome.FAILED))
    num_exact = sum(record.outcome is Outcome.EXACT for record in streams.others)
    num_settled = sum(record.outcome in (Outcome.EXACT, Outcome.FAILED) for record in streams.hurt)
    seconds = f"{scale.pause_s:.0f} s"
    return [
        all_of(
            10, f"streams, {seconds} stopped, exact or in error", num_settled, len(streams.hurt),
            detail=counts(streams.hurt),
        ),
        all_of(10, "streams on the other frontend that are exact", num_exact, len(streams.others)),
        *rounds.figures(),
    ]  # fmt: skip


async def _long_streams(arena: Arena, count: int, load: Load) -> "asyncio.Task[list[Record]]":
    """Half of the streams on each frontend, all begun."""
    clients = asyncio.create_task(load.once(count))
    await load.until_begun(count)
    await asyncio.sleep(arena.rng(str(len(load.records))).uniform(0, 0.3))
    return clients


async def _until_only_others_run(arena: Arena, load: Load, ports: set[int]) -> float:
    """Until the core has no more sequences than the streams of others are; streams run longer than this may take."""

    def is_freed() -> bool:
        numbers = stats(core)
        others = [record for record in load.under_way() if record.exchange.local_port not in ports]
        num_allowed = sum(record.question.fields.get("n", 1) for record in others)
        return int(numbers["num_running"]) + int(numbers["num_waiting"]) <= num_allowed

    with arena.server.connect() as core:
        return await until(is_freed, 20)


async def _until_it_serves(arena: Arena, pid: int) -> float:
    """Until a frontend with this pid has answered; returns when that was. Raises TimeoutError."""
    async with asyncio.timeout(20):
        while True:
            exchange = await ask(arena.port, get("/health/live"))
            if exchange.status == 200 and json.loads(bytes(exchange.body))["pid"] == pid:
                return time.monotonic()


async def _num_answered(arena: Arena, count: int) -> int:
    """How many of so many short requests at once are answered; each frontend gets some of them."""
    body = json.dumps({"model": arena.served_name, "prompt": "again", "max_tokens": 1, "ignore_eos": True})
    request = post("/v1/completions", body.encode())
    exchanges = await asyncio.gather(*(ask(arena.port, request) for _ in range(count)))
    return sum(exchange.status == 200 for exchange in exchanges)
