"""One load on one server: sends the requests of a closed or an open loop and returns what the client saw.

Called by `measurement.py`. Invariants: in a closed loop exactly `concurrency` requests are under way until fewer are
left; in an open one requests are sent at their times, whatever became of those before. A refused request is not sent
again. Nothing is encoded or decoded while the clock runs.
Next: `metrics.py`.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from fast_inference.bench.answer import RequestResult, read_answer
from fast_inference.bench.connection import Client, Exchange


@dataclass(frozen=True, slots=True)
class LoadResult:
    """All requests of one load, in the order in which they were given."""

    requests: tuple[RequestResult, ...]
    duration_s: float
    """From the first request to the end of the last."""
    cpu_s: float
    """Processor time of this process meanwhile."""


async def closed_loop(client: Client, requests: Sequence[bytes], concurrency: int) -> LoadResult:
    """Keep `concurrency` requests under way until all are answered."""
    exchanges: dict[int, Exchange] = {}
    numbers = iter(range(len(requests)))

    async def send_one_after_the_other() -> None:
        for number in numbers:
            exchanges[number] = await client.exchange(requests[number])

    return await _timed(lambda _: [send_one_after_the_other() for _ in range(concurrency)], exchanges)


async def open_loop(client: Client, requests: Sequence[bytes], arrivals_s: Sequence[float]) -> LoadResult:
    """Send each request at its time (`[num_requests]`, seconds from now), however many are under way."""
    exchanges: dict[int, Exchange] = {}

    async def send_at(number: int, at: float) -> None:
        await asyncio.sleep(at - time.perf_counter())
        exchanges[number] = await client.exchange(requests[number])

    return await _timed(lambda now: [send_at(number, now + at) for number, at in enumerate(arrivals_s)], exchanges)


async def _timed(
    senders: Callable[[float], list[Coroutine[Any, Any, None]]], exchanges: dict[int, Exchange]
) -> LoadResult:
    """Run what `senders` makes for this moment, which leave their exchanges by number; then read the answers."""
    gc.collect()
    gc.freeze()  # what is there already is not looked through again while the clock runs
    began_at, cpu_before_s = time.perf_counter(), time.process_time()
    try:
        await asyncio.gather(*senders(began_at))
    finally:
        duration_s, cpu_s = time.perf_counter() - began_at, time.process_time() - cpu_before_s
        gc.unfreeze()
    return LoadResult(tuple(read_answer(exchanges[n]) for n in range(len(exchanges))), duration_s, cpu_s)
