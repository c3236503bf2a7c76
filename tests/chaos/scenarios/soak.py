"""A long mixed load, some of it aborted, some of it invalid: nothing grows, and all answers are exact."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.chaos.harness.answers import MalformedError, read_error
from tests.chaos.harness.arena import Arena
from tests.chaos.harness.exchange import Cut, CutKind, Ending, ask
from tests.chaos.harness.figures import Figure, none_of
from tests.chaos.harness.load import Load
from tests.chaos.harness.oracle import Outcome
from tests.chaos.harness.questions import post
from tests.chaos.harness.rounds import Rounds
from tests.chaos.harness.scale import Scale
from tests.chaos.harness.usage import Usage, roles, usage_of

_ABORTED_SHARE, _INVALID_SHARE = 0.2, 0.1
_WARM_UP_SHARE = 0.25
"""Of the time, which does not count for growth."""
_MIN_TREND_S = 60.0
"""In less time growth is noise; what is left over in the end shows just the same."""
_NUM_SAMPLES = 144
_GROWTH_GOAL_MIB = 0.5
"""Per 1,000 requests."""
_ALLOWED = (Outcome.EXACT, Outcome.CUT)
_INVALID_BODIES = [
    b"", b"{", b"[]", b'{"model": "%b"}', b'{"model": "nobody", "prompt": "x"}', b'{"model": "%b", "prompt": 7}',
    b'{"model": "%b", "prompt": "x", "max_tokens": -1}', b'{"model": "%b", "prompt": "x", "temperature": "hot"}',
    b'{"model": "%b", "prompt": "x", "n": 1000000000}', b'{"model": "%b", "prompt": "\xff"}',
]  # fmt: skip


@dataclass
class _Samples:
    """Of all processes, at regular times."""

    num_requests: list[int] = field(default_factory=list)
    usages: list[dict[str, Usage]] = field(default_factory=list)

    def growth(self, role: str) -> float:
        """MiB per 1,000 requests: the slope of a line by least squares after the warm-up."""
        begin = int(len(self.usages) * _WARM_UP_SHARE)
        sizes = [usage[role].resident_bytes / 2**20 for usage in self.usages[begin:]]
        return float(np.polyfit(np.array(self.num_requests[begin:]) / 1000, sizes, 1)[0])

    def peak(self, role: str, name: str, part: Sequence[float]) -> int:
        """The most in a part of the samples, given as shares of the time."""
        begin, end = (int(len(self.usages) * share) for share in part)
        return max(int(getattr(usage[role], name)) for usage in self.usages[begin:end])


async def soak(arena: Arena, scale: Scale) -> list[Figure]:
    """Mixed load, 1 in 5 aborted, 1 in 10 invalid: memory, file descriptors and threads stay, all answers are exact."""
    load, enough, badly_refused = arena.load("soak"), asyncio.Event(), list[str]()
    before = roles(arena.server)
    clients = asyncio.gather(
        load.keep_busy(scale.streams, enough, stream=None, choose_cut=_choose_cut),
        _ask_nonsense(arena, load, enough, badly_refused),
    )
    samples = await _watch(arena, load, scale.seconds)
    enough.set()
    await clients
    after = roles(arena.server)
    rounds = Rounds(arena, 45)
    await rounds.end_round(load, load.ended_at, _ALLOWED)
    return [
        Figure(45, "requests", len(load.records), scale.streams, is_at_least=True),
        *(_trends(samples, list(after)) if scale.seconds >= _MIN_TREND_S else []),
        none_of(45, "processes that were replaced", [] if before == after else [f"{before} became {after}"]),
        none_of(45, "invalid requests that were not refused with 4xx in the envelope", badly_refused),
        *rounds.figures(),
    ]


async def _watch(arena: Arena, load: Load, seconds: float) -> _Samples:
    samples, began_at = _Samples(), time.monotonic()
    for number in range(1, _NUM_SAMPLES + 1):
        await asyncio.sleep(max(0.0, began_at + number * seconds / _NUM_SAMPLES - time.monotonic()))
        samples.usages.append(usage_of(arena.server))
        samples.num_requests.append(len(load.records))
    return samples


async def _ask_nonsense(arena: Arena, load: Load, enough: asyncio.Event, badly_refused: list[str]) -> None:
    """So many invalid requests that they are their share of all."""
    rng, num_invalid = arena.rng("nonsense"), 0
    while not enough.is_set():
        if num_invalid >= _INVALID_SHARE * len(load.records):
            await asyncio.sleep(0.01)
            continue
        num_invalid += 1
        body = rng.choice(_INVALID_BODIES).replace(b"%b", arena.served_name.encode())
        exchange = await ask(arena.port, post(rng.choice(["/v1/completions", "/v1/chat/completions"]), body))
        try:
            code = read_error(bytes(exchange.body))["code"]
        except MalformedError as error:
            code = str(error)
        if exchange.ending is not Ending.WHOLE or not 400 <= exchange.status < 500:
            badly_refused.append(f"{body!r}: {exchange.status} {code}")


def _trends(samples: _Samples, names: list[str]) -> list[Figure]:
    growth = [
        Figure(45, f"growth of {role}, MiB per 1,000 requests", samples.growth(role), _GROWTH_GOAL_MIB)
        for role in names
    ]
    return [*growth, none_of(45, "more fds or threads in the last third than before", _more(samples, names))]


def _choose_cut(rng: random.Random) -> Cut | None:
    if rng.random() > _ABORTED_SHARE:
        return None
    return Cut(rng.choice(list(CutKind)), after_bytes=rng.randint(1, 20_000), after_s=rng.uniform(0, 3))


def _more(samples: _Samples, role_names: list[str]) -> list[str]:
    found = []
    for role in role_names:
        for name in ("num_fds", "num_threads"):
            before, last = samples.peak(role, name, (0, 2 / 3)), samples.peak(role, name, (2 / 3, 1))
            if last > before:
                found.append(f"{role}: {last} {name[4:]} instead of at most {before}")
    return found
