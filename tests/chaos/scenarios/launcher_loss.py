"""The launcher is killed, or the core again and again: nothing is left behind, and the next start needs no help."""

import asyncio
import signal
import time

from tests.chaos.harness.arena import Arena, until
from tests.chaos.harness.figures import Figure, all_of, at_most, none_of
from tests.chaos.harness.load import Record
from tests.chaos.harness.oracle import Outcome
from tests.chaos.harness.rounds import Rounds
from tests.chaos.harness.scale import Scale
from tests.chaos.harness.usage import roles
from tests.servers import all_gone, is_running

_GONE_GOAL_S = 2.0
_READY_GOAL_S = 30.0
_NUM_CRASHES = 5


async def launcher_kill(arena: Arena, scale: Scale) -> list[Figure]:
    """`kill -9` of the launcher under streams: its children are gone, and a start on the same run dir works at once."""
    gone_s, ready_s, rounds = [], [], Rounds(arena, 11)
    wrong: list[Record] = []
    for number in range(scale.rounds):
        arena.ensure()
        load = arena.load(f"launcher kill, round {number}")
        clients = asyncio.create_task(load.once(scale.streams, stream=None))
        await load.until_begun(scale.streams // 4)
        pids = list(roles(arena.server).values())
        killed_at = arena.send(signal.SIGKILL, "launcher")
        gone_s.append(await until(all_gone(pids), 20) - killed_at)
        await clients
        wrong += [record for record in load.records if record.outcome in (Outcome.WRONG, Outcome.HUNG)]
        arena.server.process.wait()
        started_at = time.monotonic()
        arena.ensure()
        ready_s.append(time.monotonic() - started_at)
        afterwards = arena.load(f"launcher kill, after round {number}")
        await afterwards.once(8, stream=None)
        await rounds.end_round(afterwards, afterwards.ended_at, (Outcome.EXACT,))
    return [
        at_most(11, "until none of its processes was left", gone_s, _GONE_GOAL_S, "s"),
        none_of(11, "streams that hung or were wrong when it was killed", wrong),
        at_most(17, "until a start on the same run dir, with its stale files, is ready", ready_s, _READY_GOAL_S, "s"),
        *rounds.figures(),
    ]


async def crash_loop(arena: Arena, scale: Scale) -> list[Figure]:
    """The core dies five times in a minute: everything ends, with a status that is not 0 and one line that says why."""
    ended_s, left, num_told = [], [], 0
    for _ in range(scale.rounds):
        arena.ensure()
        pids, killed_at = list(roles(arena.server).values()), 0.0
        for crash in range(_NUM_CRASHES):
            core = arena.pid("core")
            killed_at = arena.send(signal.SIGKILL, "core")
            if crash < _NUM_CRASHES - 1:
                await arena.until_ready(without=core)
                pids.append(arena.pid("core"))
        status = await asyncio.to_thread(arena.server.process.wait, 30)
        ended_s.append(time.monotonic() - killed_at)
        left += [pid for pid in pids if is_running(pid)]
        num_told += status == 1 and len(arena.server.errors) == 1 and "crashed" in arena.server.errors[0]
    return [
        at_most(14, "from the fifth crash to the end of the launcher", ended_s, 5.0, "s"),
        all_of(14, "ends with status 1 and one line that says why", num_told, scale.rounds),
        none_of(14, "processes left over", left),
    ]
