#!/usr/bin/env python3
"""What a streamed token costs in the frontends: two of them before a core with the fake model, on this machine.

    scripts/bench_frontend.py                                   # starts a server of its own
    scripts/bench_frontend.py tokens --streams 128 --fake-step-ms 2
    scripts/bench_frontend.py --url http://127.0.0.1:8000 --run-dir /tmp/run   # one that runs already

Streams run side by side, all of one length, each on a connection of its own; the load generator counts events and
parses nothing. `CPU per token` is user and system time of a process from /proc, over all tokens of the run, requests
included; of the frontends together, since each token passes through one of them. With more than about one token per
chunk the frontends lag behind the core and merge what it sends, so that a token looks cheaper than it is.

`first chunk` is taken with one stream at a time, on a second server whose steps are long: from the end of the step with
its first token, seen as the STEP of another client of the core that has a request of its own in the same steps, to the
first chunk with text at the HTTP client. Nothing else should run on the machine.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import statistics
import sys
import time
import urllib.parse
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fast_inference.bench.own_server import own_server
from ipc.client import EngineClient
from ipc.endpoints import RunDir
from ipc.messages import ClientRole
from ipc.sampling_params import SamplingParams

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
BLOCK_SIZE = 32
EVENT = b'data: {"id"'
CONTENT = b'"content":"'
FINISHED = b'"finish_reason":"length"'
END_OF_BODY = b"\r\n0\r\n\r\n"
LONGEST_WATCH_TOKENS = 3000
NUM_DELAY_TOKENS = 2
NUM_WARM_UP_TOKENS = 8
WARM_UP_FIRST_CHUNKS = 4
LONG_STEP_MS = 50.0
"""So long that there is no doubt which step a chunk came from: the one whose end is nearest."""


class StreamConnection(asyncio.Protocol):
    """One connection, and the streamed answer that it is reading."""

    def __init__(self) -> None:
        self.num_events = 0
        self.first_text_at: float | None = None
        """`perf_counter` of the first chunk that says something."""
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[None] | None = None
        self._head = b""
        self._tail = b""
        self._latest: deque[bytes] = deque(maxlen=4)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Count the events in it; one that is cut in two is counted with the second part."""
        if len(self._head) < 4096:
            self._head += data
            if self.first_text_at is None and self._head.count(CONTENT) > 1:  # the first one belongs to the role
                self.first_text_at = time.perf_counter()
        self._latest.append(data)
        data = self._tail + data
        self.num_events += data.count(EVENT)
        self._tail = data[1 - len(EVENT) :]
        if data.endswith(END_OF_BODY):
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits learns it."""
        self._end(exc or ConnectionError("the server closed the connection"))

    async def answer(self, request: bytes) -> None:
        """Send a request and read its whole answer, which must be a stream."""
        assert self._transport is not None
        self._head = self._tail = b""
        self.first_text_at = None
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._answered
        if not self._head.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"the server refused: {self._head.decode(errors='replace')}")
        if FINISHED not in b"".join(self._latest):
            raise SystemExit(f"an answer was cut short: {b''.join(self._latest).decode(errors='replace')}")

    def close(self) -> None:
        """Disconnect."""
        if self._transport is not None:
            self._transport.close()

    def _end(self, error: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None) if error is None else self._answered.set_exception(error)


@dataclass(frozen=True)
class Server:
    """A running one."""

    url: str
    run_dir: RunDir

    def status(self) -> dict[str, Any]:
        """What the launcher says about its processes."""
        status: dict[str, Any] = json.loads(self.run_dir.status_file.read_text())
        return status

    def cpu_seconds(self) -> "CpuSeconds":
        """So far, of all processes that have a part in it."""
        status = self.status()
        frontends = [cpu_seconds_of(frontend["pid"]) for frontend in status["frontends"]]
        return CpuSeconds(frontends, cpu_seconds_of(status["core"]["pid"]), time.process_time())

    @contextlib.asynccontextmanager
    async def connections(self, count: int) -> AsyncIterator[list[StreamConnection]]:
        """So many of them."""
        address = urllib.parse.urlsplit(self.url)
        loop = asyncio.get_running_loop()
        connections: list[StreamConnection] = []
        try:
            for _ in range(count):
                _, connection = await loop.create_connection(
                    StreamConnection, str(address.hostname), address.port or 80
                )
                connections.append(connection)
            yield connections
        finally:
            for connection in connections:
                connection.close()

    def request(self, max_tokens: int, **fields: object) -> bytes:
        """A chat completion, streamed, of exactly so many tokens."""
        body = json.dumps(
            {
                "model": "fast-inference-model",
                "messages": [{"role": "user", "content": "What does a token cost?"}],
                "stream": True,
                "ignore_eos": True,
                "max_tokens": max_tokens,
                **fields,
            }
        ).encode()
        host = urllib.parse.urlsplit(self.url).netloc
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


@dataclass
class CpuSeconds:
    """User and system time of processes."""

    frontends: list[float] = field(default_factory=list)
    core: float = 0.0
    load_generator: float = 0.0

    def since(self, before: "CpuSeconds") -> "CpuSeconds":
        """The difference."""
        frontends = [now - then for now, then in zip(self.frontends, before.frontends, strict=True)]
        return CpuSeconds(frontends, self.core - before.core, self.load_generator - before.load_generator)


def cpu_seconds_of(pid: int) -> float:
    """User and system time of a process, all its threads, in the clock ticks of /proc."""
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / TICKS_PER_S


@contextlib.contextmanager
def fake_server(arguments: argparse.Namespace, fake_step_ms: float) -> Iterator[Server]:
    """Start one that leaves the frontends to be the limit, and stop it in the end."""
    longest = max(arguments.max_tokens, LONGEST_WATCH_TOKENS)
    num_blocks = (arguments.streams + 1) * (arguments.max_tokens // BLOCK_SIZE + 4) + longest // BLOCK_SIZE
    flags = ["fake", "--frontends", str(arguments.frontends), "--fake-step-ms", str(fake_step_ms)]
    flags += ["--max-num-seqs", str(arguments.streams + 1), "--num-blocks", str(num_blocks)]
    with own_server(flags) as server:
        yield Server(server.url, server.run_dir)


async def measure_cost(server: Server, arguments: argparse.Namespace, label: str, **fields: object) -> None:
    """Many streams side by side; print one row."""
    request = server.request(arguments.max_tokens, **fields)
    async with server.connections(arguments.streams) as connections:
        warm_up = server.request(NUM_WARM_UP_TOKENS, **fields)
        await asyncio.gather(*(connection.answer(warm_up) for connection in connections))
        for connection in connections:
            connection.num_events = 0
        cpu_before, began_at = server.cpu_seconds(), time.perf_counter()
        for _ in range(arguments.rounds):
            await asyncio.gather(*(connection.answer(request) for connection in connections))
        elapsed_s, cpu = time.perf_counter() - began_at, server.cpu_seconds().since(cpu_before)
    num_answers = arguments.streams * arguments.rounds
    num_tokens = num_answers * arguments.max_tokens
    num_chunks = sum(connection.num_events for connection in connections) - 2 * num_answers  # the role, the end
    frontends = ", ".join(f"{seconds / elapsed_s:.0%}" for seconds in cpu.frontends)
    print(
        f"{label:>14}: {num_tokens / elapsed_s:7.0f} tokens/s, {num_tokens / num_chunks:.2f} tokens per chunk; CPU per "
        f"token: frontend {sum(cpu.frontends) / num_tokens * 1e6:5.1f} µs, core {cpu.core / num_tokens * 1e6:5.1f} µs, "
        f"load generator {cpu.load_generator / num_tokens * 1e6:5.1f} µs; frontends busy {frontends}",
        flush=True,
    )


async def measure_first_chunks(server: Server, arguments: argparse.Namespace) -> None:
    """One stream at a time beside a request of our own; print one row."""
    client = EngineClient(server.run_dir.core_socket, name="bench", role=ClientRole.ADMIN)
    await client.start()
    delays_ms: list[float] = []
    try:
        await client.wait_ready(10)
        async with server.connections(arguments.frontends) as connections:
            for number in range(WARM_UP_FIRST_CHUNKS + arguments.first_chunks):
                delay_ms = await _first_chunk_ms(server, client, connections[number % len(connections)])
                if number >= WARM_UP_FIRST_CHUNKS:
                    delays_ms.append(delay_ms)
    finally:
        await client.close()
    delays_ms.sort()
    p95_ms = delays_ms[math.ceil(len(delays_ms) * 0.95) - 1]
    print(
        f"{'first chunk':>14}: {statistics.median(delays_ms):.2f} ms after the core's first token (p50), "
        f"{p95_ms:.2f} ms (p95), {delays_ms[-1]:.2f} ms (max) of {len(delays_ms)} streams, one at a time",
        flush=True,
    )


async def _first_chunk_ms(server: Server, client: EngineClient, connection: StreamConnection) -> float:
    """From the nearest STEP to the first chunk with text; negative where this process saw the chunk first."""
    watched = client.submit([1], SamplingParams(max_tokens=LONGEST_WATCH_TOKENS, ignore_eos=True))
    await anext(watched)
    answering = asyncio.create_task(connection.answer(server.request(NUM_DELAY_TOKENS)))
    await asyncio.sleep(0)  # it has forgotten the answer before
    steps_at: list[float] = []
    try:
        async for _ in watched:
            steps_at.append(time.perf_counter())
            if connection.first_text_at is not None:  # steps before and after it are known now
                delays_s = [connection.first_text_at - step_at for step_at in steps_at]
                return min(delays_s, key=abs) * 1e3
    finally:
        watched.abort()
        await answering
    raise SystemExit("the server did not begin an answer in time")


async def measure_costs(server: Server, arguments: argparse.Namespace) -> None:
    """Text, and text with log-probabilities for comparison."""
    await measure_cost(server, arguments, "text")
    await measure_cost(server, arguments, "with logprobs", logprobs=True, top_logprobs=1)


Measurement = Callable[[Server, argparse.Namespace], Coroutine[Any, Any, None]]
MEASUREMENTS: dict[str, Measurement] = {"tokens": measure_costs, "first-chunk": measure_first_chunks}


def run(measurement: Measurement, server: Server, arguments: argparse.Namespace) -> None:
    """Measure, in bounded time."""
    uvloop.run(asyncio.wait_for(measurement(server, arguments), arguments.timeout))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="what a streamed token costs in the frontends")
    parser.add_argument("what", nargs="*", help=f"of {', '.join(MEASUREMENTS)}; all where none is named")
    parser.add_argument("--streams", type=int, default=64, help="streams side by side")
    parser.add_argument("--max-tokens", type=int, default=512, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=2, help="answers of each stream, one after the other")
    parser.add_argument("--first-chunks", type=int, default=40, help="streams whose first chunk is timed")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for each measurement")
    parser.add_argument("--frontends", type=int, default=2, help="of a server of its own")
    parser.add_argument("--fake-step-ms", type=float, default=4.0, help="of a server of its own, for tokens")
    parser.add_argument("--url", help="a running server instead, with the fake model; first-chunk needs long steps")
    parser.add_argument("--run-dir", type=Path, help="its run dir")
    arguments = parser.parse_args()
    if (arguments.url is None) != (arguments.run_dir is None):
        parser.error("--url and --run-dir go together")
    if not MEASUREMENTS.keys() >= set(arguments.what):
        parser.error(f"there is only {', '.join(MEASUREMENTS)}")
    for name in arguments.what or MEASUREMENTS:
        if arguments.url is not None:
            run(MEASUREMENTS[name], Server(arguments.url, RunDir(arguments.run_dir)), arguments)
            continue
        with fake_server(arguments, LONG_STEP_MS if name == "first-chunk" else arguments.fake_step_ms) as server:
            run(MEASUREMENTS[name], server, arguments)


if __name__ == "__main__":
    main()
