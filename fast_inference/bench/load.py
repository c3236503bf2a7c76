"""One load on one server: sends the requests of a closed or an open loop and returns what the client saw.

Called by `measurement.py`; loops with something beside them, or without an end, are for `scripts/`. Invariants: in a
closed loop exactly `concurrency` requests are under way until fewer are left; in an open one requests are sent at their
times, whatever became of those before. A refused request is not sent again. Nothing is encoded or decoded while the
clock runs, but in the sustained loop.
Next: `metrics.py`.
"""

import asyncio
import gc
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
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


async def closed_loop_beside(
    client: Client, requests: Sequence[bytes], concurrency: int, others: Iterator[bytes], interval_s: float
) -> tuple[LoadResult, LoadResult]:
    """A closed loop, and one of the others each `interval_s` until the loop is over.

    Returns:
        The loop's result, and that of the others; both took as long as the last of all.
    """
    exchanges: dict[int, Exchange] = {}
    numbers = iter(range(len(requests)))
    is_over = asyncio.Event()

    async def send_one_after_the_other() -> None:
        for number in numbers:
            exchanges[number] = await client.exchange(requests[number])

    async def send_all() -> None:
        await asyncio.gather(*(send_one_after_the_other() for _ in range(concurrency)))
        is_over.set()

    async def send_other(number: int, request: bytes) -> None:
        exchanges[number] = await client.exchange(request)

    async def send_others(began_at: float) -> None:
        async with asyncio.TaskGroup() as tasks:
            for turn in itertools.count():
                try:
                    async with asyncio.timeout(began_at + (turn + 1) * interval_s - time.perf_counter()):
                        await is_over.wait()
                    return
                except TimeoutError:
                    tasks.create_task(send_other(len(requests) + turn, next(others)))

    both = await _timed(lambda now: [send_all(), send_others(now)], exchanges)
    of_loop, of_others = both.requests[: len(requests)], both.requests[len(requests) :]
    return replace(both, requests=of_loop), replace(both, requests=of_others)


async def sustained_loop(
    client: Client, requests: Iterator[bytes], concurrency: int, seconds: float, take: Callable[[RequestResult], None]
) -> None:
    """Keep `concurrency` requests under way for so long; `take` is given each when it is answered.

    So that hours can be measured, answers are read at once and not kept. It takes some processor time beside the
    server, which is as much in the first minute as in the last.
    """
    ends_at = time.perf_counter() + seconds

    async def send_one_after_the_other() -> None:
        while time.perf_counter() < ends_at:
            take(read_answer(await client.exchange(next(requests))))

    await asyncio.gather(*(send_one_after_the_other() for _ in range(concurrency)))


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
