#!/usr/bin/env python3
"""What connections cost that do nothing, and what slow ones do to the others.

    scripts/bench_connections.py                                      # all three scenarios, about 3 minutes
    scripts/bench_connections.py idle --connections 5000
    scripts/bench_connections.py requests readers -- --frontends 4    # flags of `fast-inference serve` after --

Each scenario has a server of its own with the fake model, and a control load of streams beside it:

idle      connections from four loopback addresses, each of which made one request and then keeps quiet
requests  clients that send a head or a body byte by byte for ever
readers   clients that ask for long streams and read none of it

Printed is a line for each figure with its goal. Exit status 1 if one is missed. Figures of latency mean something only
where nothing else runs on the machine.
"""

import argparse
import asyncio
import fcntl
import select
import socket
import struct
import sys
import termios
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import orjson

from fast_inference.bench.answer import RequestResult
from fast_inference.bench.goals import Figure, verdict_on
from fast_inference.bench.interruption import Interruption, errors_as_exits
from fast_inference.bench.load import LoadResult, sustained_loop
from fast_inference.bench.metrics import summarize
from fast_inference.bench.own_server import OwnServer, own_server
from fast_inference.bench.process_sizes import num_descriptors, resident_bytes
from fast_inference.bench.target import RequestOptions, Target
from fast_inference.bench.workload import Load, RandomPrompts
from fast_inference.cli_bench import split_at_dashes
from ipc.errors import ConfigError
from ipc.process import raise_descriptor_limit

SOURCES = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
IDLE_KIB = 64.0
"""Resident memory of the frontends for each idle connection: at most."""
READER_MIB = 1.0
"""The same for each client that does not read."""
GRACE_S = 5.0
"""How much later than its timeout the last connection is closed: at most."""
TTFT_RATIO = 2.0
"""Of the control streams' p99 beside slow requests, over that without: at most."""
ITL_RATIO = 1.1
"""The same beside clients that do not read."""
CONTROL_STREAMS = 4
CONTROL_TOKENS = 25
LONG_NAME = "a-model-of-a-long-name-" * 170
"""In every chunk of its streams, so that they are 4 KiB long and fill buffers fast."""
FILLING_SHARE = 1 / 3
"""Of the send timeout: until buffers are full, unread streams are as much work as others."""
SLICE_S = 0.5
"""Of the control load beside others, until these are over."""
BATCH = 100
"""Sockets that are looked at before others get their turn."""


@dataclass
class Control:
    """Streams of normal clients, and what they felt."""

    target: Target
    options: RequestOptions = field(default_factory=RequestOptions)
    num_failed: int = 0

    async def run(self, seconds: float) -> LoadResult:
        """Keep some streams going for so long."""
        results: list[RequestResult] = []
        source, load = RandomPrompts(0), Load(1, 10, CONTROL_TOKENS, concurrency=1)

        def requests() -> Iterator[bytes]:
            for turn in range(10**9):
                yield self.target.request(source.prompts(load, 1, turn)[0], self.options)

        async with self.target.client(self.options) as client:
            began_at = time.perf_counter()
            await sustained_loop(client, requests(), CONTROL_STREAMS, seconds, results.append)
            duration_s = time.perf_counter() - began_at
        for failure in {result.failure.text for result in results if result.failure}:
            print(f"failed: {failure}", file=sys.stderr)
        self.num_failed += sum(result.failure is not None for result in results)
        return LoadResult(tuple(results), duration_s, 0.0)

    async def run_beside(self, other: Awaitable[None]) -> LoadResult:
        """Keep them going until the other is done; latencies are of this time."""
        results: list[LoadResult] = []
        task = asyncio.ensure_future(other)
        while not task.done():
            results.append(await self.run(SLICE_S))
        await task
        requests = tuple(request for result in results for request in result.requests)
        return LoadResult(requests, sum(result.duration_s for result in results), 0.0)


def p99_ms(result: LoadResult, name: str) -> float:
    """Of `ttft` or `itl`; infinite where there is none, so that a goal is missed."""
    distribution = getattr(summarize(result), name)
    return float("inf") if distribution is None else float(distribution.p99)


def frontends_of(server: OwnServer) -> list[int]:
    """Process ids of the frontends.

    Raises:
        ConfigError: one has died.
    """
    pids = [pid for pid in server.frontend_pids if pid is not None]
    if len(pids) < len(server.frontend_pids):
        raise ConfigError("a frontend died")
    return pids


def memory_of(server: OwnServer) -> int:
    """Resident bytes of all frontends."""
    return sum(resident_bytes(pid) or 0 for pid in frontends_of(server))


def descriptors_of(server: OwnServer) -> int:
    """Open files of all frontends."""
    return sum(num_descriptors(pid) for pid in frontends_of(server))


def connect(target: Target, number: int, receive_buffer_bytes: int | None = None) -> socket.socket:
    """A connection from one of the source addresses."""
    connection = socket.socket()
    if receive_buffer_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    if target.host.startswith("127."):
        connection.bind((SOURCES[number % len(SOURCES)], 0))
    connection.connect((target.host, target.port))
    return connection


def open_idle(target: Target, count: int) -> list[socket.socket]:
    """Connections that have made one request each; those that were answered with 200."""
    request = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
    connections = []
    answered = []
    for number in range(count):
        connections.append(connect(target, number))
        connections[-1].settimeout(10)
        connections[-1].sendall(request)
    for connection in connections:
        try:
            answer = connection.recv(4096)
        except OSError:
            answer = b""
        if answer.startswith(b"HTTP/1.1 200"):
            answered.append(connection)
        else:
            connection.close()
    return answered


async def measure_idle(arguments: argparse.Namespace, server: OwnServer, target: Target) -> list[Figure]:
    """Memory and descriptors of connections that keep quiet."""
    control = Control(target)
    await control.run(arguments.control_seconds)
    memory, descriptors = memory_of(server), descriptors_of(server)
    connections = await asyncio.to_thread(open_idle, target, arguments.connections)
    kib_each = (memory_of(server) - memory) / 1024 / max(1, len(connections))
    await control.run(arguments.control_seconds)
    for connection in connections:
        connection.close()
    left = float(descriptors_of(server) - descriptors)
    deadline = time.monotonic() + 10
    while left > 0 and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        left = float(descriptors_of(server) - descriptors)
    return [
        Figure("idle connections that were not answered", arguments.connections - len(connections), 0),
        Figure(f"memory for each of {len(connections)} idle connections", kib_each, IDLE_KIB, "KiB"),
        Figure("failed control requests beside them", control.num_failed, 0),
        Figure("descriptors left over when they are closed", left, 0),
    ]


class SlowClients:
    """Connections that are watched until the server has closed them all."""

    def __init__(self, connections: list[socket.socket]) -> None:
        self.opened_at = time.monotonic()
        self.open = {connection.fileno(): connection for connection in connections}
        self.seconds: list[float] = []
        """From the beginning to the end of each that is closed."""

    async def watch(self, each: Callable[[socket.socket], bool], interval_s: float, limit_s: float) -> None:
        """Call `each` for all of them every `interval_s`, until it has said of all that they are over."""
        while self.open and time.monotonic() - self.opened_at < limit_s:
            turn_ends_at = time.monotonic() + interval_s
            for number, (fd, connection) in enumerate(list(self.open.items())):
                if each(connection):
                    self.seconds.append(time.monotonic() - self.opened_at)
                    del self.open[fd]
                    connection.close()
                if number % BATCH == BATCH - 1:
                    await asyncio.sleep(0)
            await asyncio.sleep(max(0.0, turn_ends_at - time.monotonic()))

    def close(self) -> None:
        """Close what is left."""
        for connection in self.open.values():
            connection.close()


def sends_on(connection: socket.socket) -> bool:
    """Send one more byte; True if the server has ended the connection."""
    try:
        connection.send(b"a")
        return not connection.recv(4096)
    except BlockingIOError:
        return False
    except OSError:
        return True


async def measure_requests(arguments: argparse.Namespace, _: OwnServer, target: Target) -> list[Figure]:
    """Slow heads and bodies."""
    control = Control(target)
    await control.run(arguments.control_seconds / 10)
    alone = await control.run(arguments.control_seconds)
    starts = (
        b"GET /",
        b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n",
    )

    def begin() -> SlowClients:
        connections = [connect(target, number) for number in range(arguments.slow_requests)]
        for number, connection in enumerate(connections):
            connection.setblocking(False)
            connection.send(starts[number % len(starts)])
        return SlowClients(connections)

    limit_s = max(arguments.header_timeout, arguments.body_timeout) + GRACE_S
    clients = await asyncio.to_thread(begin)
    beside = await control.run_beside(clients.watch(sends_on, arguments.byte_interval, 2 * limit_s))
    clients.close()
    ratio = p99_ms(beside, "ttft") / p99_ms(alone, "ttft")
    return [
        Figure("slow requests that were not closed", len(clients.open), 0),
        Figure("the last one was closed after", max(clients.seconds, default=float("inf")), limit_s, "s"),
        Figure("failed control requests beside them", control.num_failed, 0),
        Figure("control TTFT p99 beside / alone", ratio, TTFT_RATIO, "x"),
    ]


@dataclass
class Reader:
    """What a client that does not read sees of its stream in its receive buffer."""

    num_bytes: int = -1
    grew_at: float = 0.0


class Readers:
    """Notes when each stalled, and how long after that it was reset."""

    def __init__(self) -> None:
        self._readers: dict[int, Reader] = {}
        self.stalled_s: list[float] = []

    def is_reset(self, connection: socket.socket) -> bool:
        """Look at one, without reading; True if it is over."""
        reader = self._readers.setdefault(connection.fileno(), Reader())
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or _has_hung_up(connection):
            self.stalled_s.append(time.monotonic() - reader.grew_at)
            return True
        (num_bytes,) = struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))
        if num_bytes != reader.num_bytes:
            self._readers[connection.fileno()] = Reader(num_bytes, time.monotonic())
        return False


def _has_hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(0))


async def measure_readers(arguments: argparse.Namespace, server: OwnServer, target: Target) -> list[Figure]:
    """Streams that nobody reads."""
    control = Control(target)
    await control.run(arguments.control_seconds / 10)
    alone = await control.run(arguments.control_seconds)
    load = Load(1, 10, 3500, concurrency=1)
    request = Target("", target.host, target.port, target.root, LONG_NAME).request(
        RandomPrompts(1).prompts(load, 1)[0], RequestOptions()
    )

    def begin() -> SlowClients:
        connections = [connect(target, number, 2048) for number in range(arguments.slow_readers)]
        for connection in connections:
            connection.sendall(request)
        return SlowClients(connections)

    memory, readers = memory_of(server), Readers()
    peak = memory

    def look(connection: socket.socket) -> bool:
        nonlocal peak
        if connection.fileno() == first:
            peak = max(peak, memory_of(server))
        return readers.is_reset(connection)

    limit_s = arguments.send_timeout + GRACE_S
    clients = await asyncio.to_thread(begin)
    first = next(iter(clients.open), -1)
    watching = asyncio.create_task(clients.watch(look, 0.2, 3 * limit_s))
    await control.run(FILLING_SHARE * arguments.send_timeout)
    beside = await control.run_beside(watching)
    not_reset = len(clients.open)
    clients.close()
    mib_each = (peak - memory) / 2**20 / arguments.slow_readers
    ratio = p99_ms(beside, "itl") / p99_ms(alone, "itl")
    return [
        Figure("unread streams that were not reset", not_reset, 0),
        Figure("longest from a client's last byte to its reset", max(readers.stalled_s, default=limit_s), limit_s, "s"),
        Figure("memory of the frontends for each", mib_each, READER_MIB, "MiB"),
        Figure("requests still running in the core", await num_running(target), 0),
        Figure("failed control requests beside them", control.num_failed, 0),
        Figure("control ITL p99 beside them, once they stall / alone", ratio, ITL_RATIO, "x"),
    ]


async def num_running(target: Target) -> int:
    """Requests in the core; where there are some, once it has had a moment."""
    deadline = time.monotonic() + 2.0
    async with target.client(RequestOptions()) as client:
        while True:
            load = orjson.loads((await client.exchange(b"GET /load HTTP/1.1\r\nhost: localhost\r\n\r\n")).body)
            number = int(load["server_load"])
            if not number or time.monotonic() > deadline:
                return number
            await asyncio.sleep(0.1)


Scenario = Callable[[argparse.Namespace, OwnServer, Target], Awaitable[list[Figure]]]
SCENARIOS: dict[str, tuple[Scenario, list[str]]] = {
    "idle": (measure_idle, ["--fake-step-ms", "5", "--keep-alive-timeout", "600"]),
    "requests": (measure_requests, ["--fake-step-ms", "5"]),
    "readers": (
        measure_readers,
        [
            *("--fake-step-ms", "40", "--max-num-seqs", "512", "--num-blocks", "16384"),
            *("--served-model-name", "fake", "--served-model-name", LONG_NAME),
        ],
    ),
}


async def measure(arguments: argparse.Namespace, scenario: Scenario, server: OwnServer) -> list[Figure]:
    """One scenario."""
    target = await Target.parse(server.url).with_model(RequestOptions(), "fake")
    return await scenario(arguments, server, target)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="connections that do nothing, or next to nothing")
    parser.add_argument("scenarios", nargs="*", choices=[*SCENARIOS, []], help="all where none is named")
    parser.add_argument("--connections", type=int, default=10_000, help="idle ones")
    parser.add_argument("--slow-requests", type=int, default=2000)
    parser.add_argument("--slow-readers", type=int, default=200)
    parser.add_argument("--header-timeout", type=float, default=10.0, help="of the server")
    parser.add_argument("--body-timeout", type=float, default=30.0, help="of the server")
    parser.add_argument("--send-timeout", type=float, default=30.0, help="of the server")
    parser.add_argument("--byte-interval", type=float, default=1.0, help="seconds between bytes of slow requests")
    parser.add_argument("--control-seconds", type=float, default=15.0, help="of the control load alone")
    own_flags, server_flags = split_at_dashes(sys.argv[1:])
    arguments = parser.parse_args(own_flags)
    raise_descriptor_limit()
    timeouts = [
        text
        for name in ("header", "body", "send")
        for text in (f"--{name}-timeout", str(getattr(arguments, f"{name}_timeout")))
    ]
    figures: list[Figure] = []
    with errors_as_exits(), Interruption() as interruption:
        for name in arguments.scenarios or SCENARIOS:
            scenario, flags = SCENARIOS[name]
            with own_server(["fake", *flags, *timeouts, *server_flags]) as server:
                measured = interruption.run(lambda: measure(arguments, scenario, server))  # noqa: B023
            print(f"{name}:")
            for figure in measured:
                print(f"  {figure}", flush=True)
            figures += measured
    sys.exit(verdict_on(figures))


if __name__ == "__main__":
    main()
