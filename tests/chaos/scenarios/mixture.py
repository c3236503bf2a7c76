"""Everything at once: a seeded nemesis against all processes while clients ask, come and leave."""

import asyncio
import random

from tests.chaos.harness.arena import Arena
from tests.chaos.harness.exchange import Cut, CutKind
from tests.chaos.harness.figures import Figure, all_of, none_of
from tests.chaos.harness.load import Load, Record, counts
from tests.chaos.harness.nemesis import Nemesis, plan
from tests.chaos.harness.oracle import Outcome
from tests.chaos.harness.rounds import Rounds
from tests.chaos.harness.scale import Scale

_ALLOWED = (Outcome.EXACT, Outcome.CUT, Outcome.FAILED, Outcome.REFUSED)
_CUT_SHARE = 0.2


async def mixture(arena: Arena, scale: Scale) -> list[Figure]:
    """Kills, pauses, junk, no file descriptors, clients that leave: whatever ends well is exact, the rest says so."""
    rounds, history = Rounds(arena, 0), list[str]()
    lost: list[Record] = []
    records: list[Record] = []
    for number in range(scale.rounds):
        load, enough = arena.load(f"mixture, round {number}"), asyncio.Event()
        nemesis = Nemesis(arena, plan(arena.rng(f"nemesis, round {number}"), scale.seconds))
        clients = asyncio.create_task(load.keep_busy(scale.streams, enough, stream=None, choose_cut=_choose_cut))
        await load.until_begun(scale.streams)
        await nemesis.run()
        await arena.until_ready()
        enough.set()
        await clients
        history += [f"round {number}, {strike}" for strike in nemesis.history]
        lost += _lost_without_a_kill(load, nemesis)
        records += load.records
        await rounds.end_round(load, load.ended_at, (*_ALLOWED, Outcome.LOST, Outcome.UNREACHED))
    num_exact = sum(record.outcome is Outcome.EXACT for record in records)
    control = arena.load("mixture, afterwards")
    await control.once(16, stream=None)
    return [
        Figure(0, "blows", len(history), scale.rounds, is_at_least=True),
        Figure(0, "exact answers", num_exact, scale.streams, is_at_least=True, detail=counts(records)),
        none_of(0, "answers that ended in an error and need not have", [r for r in records if _is_needless(r)]),
        none_of(0, "connections that were lost without the kill of a frontend", lost),
        *rounds.figures(),
        all_of(0, "answered exactly afterwards", len(control.with_outcome(Outcome.EXACT)), 16, detail=control.counts()),
    ]


def _lost_without_a_kill(load: Load, nemesis: Nemesis) -> list[Record]:
    kills = [at for at, role in nemesis.kills if role.startswith("frontend")]
    lost = load.with_outcome(Outcome.LOST, Outcome.UNREACHED)
    return [record for record in lost if not any(record.exchange.is_under_way(at) for at in kills)]


def _is_needless(record: Record) -> bool:
    """An error, but not that there is no core at the moment, nor that this request was there when two of them died."""
    if record.verdict is None or record.outcome not in (Outcome.FAILED, Outcome.REFUSED):
        return False
    is_begun = record.outcome is Outcome.FAILED
    return "request_quarantined" not in record.verdict.detail and (is_begun or record.exchange.status != 503)


def _choose_cut(rng: random.Random) -> Cut | None:
    if rng.random() > _CUT_SHARE:
        return None
    return Cut(rng.choice(list(CutKind)), after_bytes=rng.randint(1, 20_000), after_s=rng.uniform(0, 5))
