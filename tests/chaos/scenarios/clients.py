"""Clients that leave: in the middle of a stream, before its first token, while a whole answer is made."""

import random
import time

from tests.chaos.harness.arena import Arena
from tests.chaos.harness.exchange import Cut, CutKind
from tests.chaos.harness.figures import Figure
from tests.chaos.harness.load import ChooseCut
from tests.chaos.harness.oracle import Outcome
from tests.chaos.harness.rounds import Rounds
from tests.chaos.harness.scale import Scale

_BYTES_PER_TOKEN = 220
"""Of a stream, at least; a cut is somewhere in the first third of the answer, so that what nobody stops shows."""
_SHARE_OF_STAYERS = 0.1
_ALLOWED = (Outcome.CUT, Outcome.EXACT)


async def cut_streams(arena: Arena, scale: Scale) -> list[Figure]:
    """Streams are cut at a random byte, by FIN, RST and half-close; one in ten stays to the end."""
    longest = arena.tokens * _BYTES_PER_TOKEN // 3
    return await _leave(
        arena, scale, 1, lambda rng: Cut(_any_kind(rng), after_bytes=rng.randint(1, longest)), stream=True
    )


async def leave_early(arena: Arena, scale: Scale) -> list[Figure]:
    """Clients leave before the first token: while they wait, and during prefill."""
    return await _leave(
        arena, scale, 2, lambda rng: Cut(_any_kind(rng), after_s=rng.uniform(0, 0.03), after_bytes=1), stream=True
    )


async def cut_whole_requests(arena: Arena, scale: Scale) -> list[Figure]:
    """Clients that wait for whole answers leave while these are made."""
    seconds = arena.tokens * arena.step_ms / 1e3
    return await _leave(arena, scale, 3, lambda rng: Cut(_any_kind(rng), after_s=rng.uniform(0, seconds)), stream=False)


async def _leave(arena: Arena, scale: Scale, item: int, choose: ChooseCut, *, stream: bool) -> list[Figure]:
    """As many requests as the scale says in all, so many at once; of the last of them nobody stays."""

    def some_stay(rng: random.Random) -> Cut | None:
        return None if rng.random() < _SHARE_OF_STAYERS else choose(rng)

    rounds, num_left = Rounds(arena, item), 0
    num_rounds = max(1, scale.total // scale.streams)
    for number in range(num_rounds):
        load = arena.load(f"item {item}, round {number}")
        is_last = number == num_rounds - 1
        await load.once(scale.streams, stream=stream, choose_cut=choose if is_last else some_stay)
        num_left += len(load.with_outcome(Outcome.CUT))
        if is_last:
            await rounds.end_round(load, time.monotonic(), _ALLOWED)
        else:
            rounds.take(load, _ALLOWED)
    return [Figure(item, "clients that left", num_left, 1, is_at_least=True), *rounds.figures()]


def _any_kind(rng: random.Random) -> CutKind:
    return rng.choice(list(CutKind))
