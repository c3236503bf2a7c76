"""Junk on the core's socket while clients ask: it is counted, and nobody notices."""

import asyncio
import time

from tests.chaos.harness.arena import Arena
from tests.chaos.harness.figures import Figure, at_most, none_of
from tests.chaos.harness.oracle import Outcome
from tests.chaos.harness.rounds import Rounds
from tests.chaos.harness.scale import Scale
from tests.chaos.harness.usage import Usage, roles
from tests.junk_frames import junk_sent, send_oversized, send_raw_bytes
from tests.processes import stats

_GROWTH_GOAL_MIB = 64.0
_NUM_OVERSIZED = 3
"""Messages of 100 MiB, and connections that do not speak ZeroMQ's protocol."""


async def junk(arena: Arena, scale: Scale) -> list[Figure]:
    """Junk frames on the core's socket under streams: same processes, all of it counted, all streams exact."""
    rounds, uncounted, growth_mib, changed = Rounds(arena, 19), list[int](), list[float](), list[str]()
    for number in range(scale.rounds):
        load, enough = arena.load(f"junk, round {number}"), asyncio.Event()
        clients = asyncio.create_task(load.keep_busy(scale.streams, enough, stream=None))
        await load.until_begun(scale.streams)
        before, memory = roles(arena.server), Usage.of(arena.pid("core")).resident_bytes
        with arena.server.connect() as core:
            counted = int(stats(core)["num_bad_messages"])
        socket = arena.server.run_dir / "core.sock"
        with junk_sent(socket, arena.seed + number, scale.total):
            uncounted.append(await _num_uncounted(arena, counted + scale.total))
        for _ in range(_NUM_OVERSIZED):
            await asyncio.to_thread(send_oversized, socket)
            await asyncio.to_thread(send_raw_bytes, socket, arena.rng(f"raw bytes, round {number}").randbytes(100))
        growth_mib.append((Usage.of(arena.pid("core")).resident_bytes - memory) / 2**20)
        enough.set()
        await clients
        if roles(arena.server) != before:
            changed.append(f"{before} became {roles(arena.server)}")
        await rounds.end_round(load, load.ended_at, (Outcome.EXACT,))
    return [
        Figure(19, f"junk messages that were not counted, of {scale.total}", max(uncounted), 0),
        none_of(19, "processes that were replaced", changed),
        at_most(19, "growth of the core meanwhile", growth_mib, _GROWTH_GOAL_MIB, "MiB"),
        *rounds.figures(),
    ]


async def _num_uncounted(arena: Arena, goal: int) -> int:
    """How many bad messages the core has not counted after it had time to."""
    deadline = time.monotonic() + 10
    with arena.server.connect() as core:
        while (counted := int(stats(core)["num_bad_messages"])) < goal and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return max(0, goal - counted)
