"""One load on one server: who sends what when, and what came back.

Called by `measurement.py`. Owns the two shapes of a load: a closed loop keeps `concurrency` requests under way, an open
loop sends each when its time has come. Invariant: nothing is encoded, decoded or collected as garbage while it runs, so
that the generator takes little from a server on the same cores.
Next: `connection.py`, `answer.py`.
"""

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fast_inference.bench.answer import RequestResult, read_answer
from fast_inference.bench.connection import Client, Exchange


@dataclass(frozen=True, slots=True)
class LoadResult:
    """All requests of one load, in the order in which they were given."""

    results: tuple[RequestResult, ...]
    duration_s: float
    """From the first request sent to the end of the last answer."""
    generator_cpu_s: float
    """User and system time of this process meanwhile, reading the answers not included."""


async def run_closed_loop(client: Client, requests: Sequence[bytes], concurrency: int) -> LoadResult:
    """Send the requests in their order, always `concurrency` of them at a time."""
    exchanges: list[Exchange | None] = [None] * len(requests)
    numbers = iter(range(len(requests)))

    async def send_one_after_the_other() -> None:
        for number in numbers:
            exchanges[number] = await client.exchange(requests[number])

    with _timed() as clock:
        await asyncio.gather(*(send_one_after_the_other() for _ in range(min(concurrency, len(requests)))))
    return _read(exchanges, clock)


async def run_open_loop(client: Client, requests: Sequence[bytes], arrivals_s: Sequence[float]) -> LoadResult:
    """Send each request at its time (`[num_requests]`, seconds from now), however many are under way."""
    exchanges: list[Exchange | None] = [None] * len(requests)

    async def send_at(number: int, at: float) -> None:
        await asyncio.sleep(at - time.perf_counter())
        exchanges[number] = await client.exchange(requests[number])

    with _timed() as clock:
        begin = time.perf_counter()
        await asyncio.gather(*(send_at(number, begin + at) for number, at in enumerate(arrivals_s)))
    return _read(exchanges, clock)


@dataclass(slots=True)
class _Clock:
    duration_s: float = 0.0
    cpu_s: float = 0.0


@contextmanager
def _timed() -> Iterator[_Clock]:
    clock = _Clock()
    gc.collect()
    gc.disable()
    began_at, cpu_before = time.perf_counter(), time.process_time()
    try:
        yield clock
    finally:
        clock.duration_s, clock.cpu_s = time.perf_counter() - began_at, time.process_time() - cpu_before
        gc.enable()


def _read(exchanges: Sequence[Exchange | None], clock: _Clock) -> LoadResult:
    results = tuple(read_answer(exchange) for exchange in exchanges if exchange is not None)
    assert len(results) == len(exchanges)
    return LoadResult(results, clock.duration_s, clock.cpu_s)
