"""Orderly ends under load: SIGTERM lets streams finish, up to a limit; a second signal ends everything at once."""

import asyncio
import signal
import time

from tests.chaos.harness.arena import FAKE_MODEL, Arena
from tests.chaos.harness.figures import Figure, all_of, at_most, none_of
from tests.chaos.harness.load import Record, counts
from tests.chaos.harness.oracle import Outcome
from tests.chaos.harness.prober import Probe
from tests.chaos.harness.scale import Scale
from tests.chaos.harness.usage import files_of, roles
from tests.servers import is_running

_REMAINING_FILES = {".fast-inference", "status.json"}
_SHORT_DRAIN_S = 1.0
_SLOW = ("--fake-step-ms", "60")
_TOLD_S = 0.2
"""So soon every frontend knows."""


def _long_drain(arena: Arena) -> tuple[str, ...]:
    """A real model may take longer than the usual limit for so many streams at once."""
    return () if arena.model == FAKE_MODEL else ("--drain-timeout", "120")


class _Ends:
    """How the server ended in each round."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.seconds: list[float] = []
        """From the moment that counts to the end of the launcher."""
        self.left: list[str] = []

    async def wait(self, arena: Arena, pids: dict[str, int]) -> float:
        """Until the launcher has ended; returns when that was."""
        self.statuses.append(await asyncio.to_thread(arena.server.process.wait, 150))
        now = time.monotonic()
        self.left += [f"{role} runs" for role, pid in pids.items() if is_running(pid)]
        self.left += [f"file {name}" for name in files_of(arena.server) - _REMAINING_FILES]
        return now

    def figures(self, item: int, status: int, since: str, goal_s: float) -> list[Figure]:
        """Of the end itself."""
        num_right = self.statuses.count(status)
        return [
            all_of(item, f"ends with status {status}", num_right, len(self.statuses), detail=str(self.statuses)),
            at_most(item, f"from {since} to the end", self.seconds, goal_s, "s"),
            none_of(item, "processes and files left over", self.left),
        ]


async def drain(arena: Arena, scale: Scale) -> list[Figure]:
    """SIGTERM under streams: all of them complete, new requests get 503, then everything ends with status 0."""
    ends, records = _Ends(), list[Record]()
    late: list[Probe] = []
    """Requests that came when the server drained already and still did."""
    for number in range(scale.rounds):
        arena.ensure(*_long_drain(arena))
        load = arena.load(f"drain, round {number}")
        clients = asyncio.create_task(load.once(scale.streams))
        await load.until_begun(scale.streams)
        pids = roles(arena.server)
        stopped_at = arena.send(signal.SIGTERM, "launcher")
        async with arena.prober("ready", "request") as prober:
            await clients
        late += prober.between(stopped_at + _TOLD_S, load.ended_at - _TOLD_S)
        ends.seconds.append(await ends.wait(arena, pids) - load.ended_at)
        records += load.records
    num_exact = sum(record.outcome is Outcome.EXACT for record in records)
    num_refused = sum(probe.is_refusal and probe.exchange.headers.get("connection") == "close" for probe in late)
    return [
        all_of(12, "requests that were under way and are exact", num_exact, len(records), detail=counts(records)),
        all_of(
            12, "probes and requests during the drain answered 503, Connection: close", num_refused, len(late),
            detail="; ".join(str(probe) for probe in late if not probe.is_refusal)[:500],
        ),
        *ends.figures(12, 0, "the end of the last stream", 1.0),
    ]  # fmt: skip


async def drain_limit(arena: Arena, scale: Scale) -> list[Figure]:
    """SIGTERM with streams that take longer than `--drain-timeout`: an error event when the time is over, status 0."""
    ends, late_s, early_s = _Ends(), [], []
    records: list[Record] = []
    for number in range(scale.rounds):
        arena.ensure("--drain-timeout", str(_SHORT_DRAIN_S), *(_SLOW if arena.model == FAKE_MODEL else ()))
        load = arena.load(f"drain limit, round {number}")
        clients = asyncio.create_task(load.once(scale.streams))
        await load.until_begun(scale.streams)
        pids = roles(arena.server)
        stopped_at = arena.send(signal.SIGTERM, "launcher")
        ended_at = await ends.wait(arena, pids)
        await clients
        failed = load.with_outcome(Outcome.FAILED)
        records += load.records
        late_s += [record.exchange.ended_at - stopped_at - _SHORT_DRAIN_S for record in failed]
        early_s += [stopped_at + _SHORT_DRAIN_S - record.exchange.ended_at for record in failed]
        ends.seconds.append(ended_at - load.ended_at)
    return [
        _settled(records),
        Figure(13, "of them, ended by the limit", len(late_s), 1, is_at_least=True),
        at_most(13, "error event after the limit", late_s or [float("inf")], 1.0, "s"),
        at_most(13, "error event before the limit", early_s or [float("inf")], 1.0, "s"),
        *ends.figures(13, 0, "the end of the last stream", 2.0),
    ]


async def interrupt_twice(arena: Arena, scale: Scale) -> list[Figure]:
    """SIGINT twice under streams: they end in an error and everything ends at once, with status 130."""
    ends, records = _Ends(), list[Record]()
    for number in range(scale.rounds):
        arena.ensure(*_long_drain(arena))
        load = arena.load(f"SIGINT twice, round {number}")
        clients = asyncio.create_task(load.once(scale.streams))
        await load.until_begun(scale.streams)
        pids = roles(arena.server)
        arena.send(signal.SIGINT, "launcher")
        await asyncio.sleep(0.2)
        second_at = arena.send(signal.SIGINT, "launcher")
        ends.seconds.append(await ends.wait(arena, pids) - second_at)
        await clients
        records += load.records
    return [_settled(records), *ends.figures(13, 130, "the second SIGINT", 2.0)]


def _settled(records: list[Record]) -> Figure:
    """All of them are exact or say that they are not complete."""
    num_settled = sum(record.outcome in (Outcome.EXACT, Outcome.FAILED) for record in records)
    return all_of(13, "streams that are exact or end in an error", num_settled, len(records), detail=counts(records))
