"""The core is replaced on request while streams run, and nobody notices."""

import asyncio
import sys
import time

from tests.chaos.harness.arena import Arena
from tests.chaos.harness.figures import Figure, at_most, none_of
from tests.chaos.harness.oracle import Outcome
from tests.chaos.harness.rounds import Rounds
from tests.chaos.harness.scale import Scale
from tests.servers import ROOT

_RELOAD_GOAL_S = 60.0


async def reload(arena: Arena, scale: Scale) -> list[Figure]:
    """`fast-inference reload` under streams: another core takes over, no request fails, all answers are exact."""
    rounds, seconds, failed = Rounds(arena, 0), list[float](), list[str]()
    for number in range(scale.rounds):
        load, enough = arena.load(f"reload, round {number}"), asyncio.Event()
        clients = asyncio.create_task(load.keep_busy(scale.streams, enough, stream=None))
        await load.until_begun(scale.streams)
        core, began_at = arena.pid("core"), time.monotonic()
        status, said = await _reload(arena)
        seconds.append(time.monotonic() - began_at)
        await arena.until_ready(without=core)
        await asyncio.sleep(0.5)
        enough.set()
        await clients
        if status != 0:
            failed.append(f"status {status}: {said}")
        await rounds.end_round(load, load.ended_at, (Outcome.EXACT,))
    return [
        none_of(0, f"reloads that failed, of {scale.rounds}", failed),
        at_most(0, "until the old core has ended", seconds, _RELOAD_GOAL_S, "s"),
        *rounds.figures(),
    ]


async def _reload(arena: Arena) -> tuple[int, str]:
    """Exit status and output of the command."""
    command = [sys.executable, "-P", "-m", "fast_inference", "reload", "--run-dir", str(arena.server.run_dir)]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()
