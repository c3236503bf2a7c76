#!/usr/bin/env python3
"""Whether a server under load is as fast in the end as in the beginning, and does not grow.

    scripts/bench_soak.py                                             # 10 minutes of 32 streams
    scripts/bench_soak.py --minutes 60 -- --quantization int8         # flags of `fast-inference serve` after --

A server is started and kept under a closed loop of short random prompts. For each interval a row is printed, half an
interval later, when its answers are complete: output tokens per second, answers and failures in it, and the resident
memory of the core and of the frontends at its end. Then the throughput of the last interval over that of the first
(goal: at least 0.95), and by how much memory grew per minute (goal: about 0): the slope of a line by least squares
through all samples after the first interval, and after the KV cache was filled once, as the kernel gives its pages when
they are first written. Exit status 1 if a request failed or a process of the server was replaced. Nothing else should
run on the machine.
"""

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from fast_inference.bench.answer import RequestResult, read_refusal
from fast_inference.bench.connection import Client
from fast_inference.bench.interruption import Interruption, errors_as_exits
from fast_inference.bench.load import closed_loop, sustained_loop
from fast_inference.bench.own_server import OwnServer, own_server
from fast_inference.bench.process_sizes import resident_bytes
from fast_inference.bench.target import RequestOptions, Target
from fast_inference.bench.workload import Load, RandomPrompts
from fast_inference.cli_bench import split_at_dashes
from ipc.errors import ConfigError

GOAL = 0.95
"""Of the throughput of the last interval in relation to the first: at least."""
SAMPLES_PER_INTERVAL = 30
FILLED_TIMES = 1.25
"""As many tokens as the KV cache holds, times this, have been in each of its blocks."""


@dataclass(frozen=True)
class Memory:
    """Resident bytes of the server's processes at one time."""

    at_s: float
    """From the start of the load."""
    core: int
    frontends: int
    """All together."""


@dataclass
class Interval:
    """What happened in one interval."""

    num_tokens: float = 0.0
    num_answers: int = 0
    num_failed: int = 0


@dataclass
class Soak:
    """One run as it goes on."""

    interval_s: float
    num_intervals: int
    num_cache_tokens: int
    """That the KV cache holds."""
    num_tokens: int = 0
    """Of prompts and answers so far."""
    filled_at_s: float | None = None
    """From the start: when the KV cache was filled once; None while it was not."""
    began_at: float = field(default_factory=time.perf_counter)
    memory: list[Memory] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    intervals: list[Interval] = field(init=False)

    def __post_init__(self) -> None:
        self.intervals = [Interval() for _ in range(self.num_intervals + 1)]
        """The last one is for what comes when the time is over."""

    @property
    def num_failed(self) -> int:
        """Requests."""
        return sum(self.failures.values())

    @property
    def throughput(self) -> list[float]:
        """Tokens per second in each interval."""
        return [interval.num_tokens / self.interval_s for interval in self.intervals[:-1]]

    def take(self, request: RequestResult) -> None:
        """Count an answer: its tokens where they came, itself where it ended."""
        if request.failure is not None:
            self.failures[request.failure.text] = self.failures.get(request.failure.text, 0) + 1
            self._at(time.perf_counter()).num_failed += 1
            return
        tokens_per_chunk = request.output_tokens / len(request.chunk_times)
        for chunk_time in request.chunk_times:
            self._at(chunk_time).num_tokens += tokens_per_chunk
        self._at(request.ended_at).num_answers += 1
        self.num_tokens += request.prompt_tokens + request.output_tokens
        if self.filled_at_s is None and self.num_tokens >= FILLED_TIMES * self.num_cache_tokens:
            self.filled_at_s = request.ended_at - self.began_at

    def slope(self, name: str) -> float | None:
        """Bytes per minute by which the memory of the core or the frontends grew; None where there was no time."""
        if self.filled_at_s is None:
            return None
        samples = [sample for sample in self.memory if sample.at_s >= max(self.interval_s, self.filled_at_s)]
        if len(samples) < 2:
            return None
        minutes = [sample.at_s / 60 for sample in samples]
        return float(np.polyfit(minutes, [getattr(sample, name) for sample in samples], 1)[0])

    def _at(self, moment: float) -> Interval:
        return self.intervals[min(int((moment - self.began_at) / self.interval_s), self.num_intervals)]


def pids_of(server: OwnServer) -> tuple[int | None, ...]:
    """The core, then the frontends."""
    return (server.core_pid, *server.frontend_pids)


async def watch(soak: Soak, server: OwnServer) -> None:
    """Sample memory until the time is over, and print a row for each interval but the last.

    Raises:
        ConfigError: a process of the server is not the one that it was.
    """
    pids = pids_of(server)
    num_samples = soak.num_intervals * SAMPLES_PER_INTERVAL
    for number in range(1, num_samples + 1):
        at_s = number * soak.interval_s / SAMPLES_PER_INTERVAL
        await asyncio.sleep(soak.began_at + at_s - time.perf_counter())
        now = pids_of(server)
        sizes = [size for pid in now if pid is not None and (size := resident_bytes(pid)) is not None]
        if now != pids or len(sizes) < len(pids):
            raise ConfigError(f"a process of the server died after {at_s:.0f} s: processes {pids} are now {now}")
        core, *frontends = sizes
        soak.memory.append(Memory(at_s, core, sum(frontends)))
        if number % SAMPLES_PER_INTERVAL == SAMPLES_PER_INTERVAL // 2 and number > SAMPLES_PER_INTERVAL:
            print_row(soak, number // SAMPLES_PER_INTERVAL)


def print_row(soak: Soak, number: int) -> None:
    """The interval of this number, from 1."""
    interval, memory = soak.intervals[number - 1], soak.memory[number * SAMPLES_PER_INTERVAL - 1]
    print(
        f"{number:>8}{soak.throughput[number - 1]:>12.1f}{interval.num_answers:>10}{interval.num_failed:>8}"
        f"{memory.core / 2**20:>12.1f}{memory.frontends / 2**20:>12.1f}",
        flush=True,
    )


def endless_requests(arguments: argparse.Namespace, target: Target) -> Iterator[bytes]:
    """Random prompts, no two alike."""
    source, options = RandomPrompts(arguments.seed), RequestOptions()
    load = Load(1, arguments.input_len, arguments.output_len, concurrency=1)
    for turn in itertools.count():
        yield target.request(source.prompts(load, 1, turn)[0], options)


async def num_cache_tokens(client: Client, target: Target) -> int:
    """Tokens that the server's KV cache holds."""
    exchange = await client.exchange(b"GET /load HTTP/1.1\r\nhost: %b\r\n\r\n" % target.host.encode())
    if failure := exchange.failure or read_refusal(exchange):
        raise ConfigError(f"cannot ask {target.url}/load: {failure.text}")
    return int(json.loads(exchange.body)["capacity"]["kv_tokens"])


async def measure(arguments: argparse.Namespace, server: OwnServer) -> Soak:
    """The whole run."""
    options = RequestOptions()
    target = await Target.parse(server.url).with_model(options, None)
    requests = endless_requests(arguments, target)
    num_intervals = max(2, round(arguments.minutes * 60 / arguments.interval))
    async with target.client(options) as client:
        warm_up = list(itertools.islice(requests, 2 * arguments.concurrency))
        await closed_loop(client, warm_up, arguments.concurrency)
        print(
            f"{'interval':>8}{'tokens/s':>12}{'answers':>10}{'failed':>8}{'core MiB':>12}{'frontends':>12}", flush=True
        )
        soak = Soak(arguments.interval, num_intervals, await num_cache_tokens(client, target))
        seconds = num_intervals * arguments.interval
        load = sustained_loop(client, requests, arguments.concurrency, seconds, soak.take)
        await asyncio.gather(watch(soak, server), load)
    print_row(soak, num_intervals)
    return soak


def print_summary(soak: Soak) -> None:
    """Throughput of each interval, first and last, and how memory grew."""
    first, last = soak.throughput[0], soak.throughput[-1]
    share = last / first if first else 0.0
    print(f"last / first: {share:.3f}, goal at least {GOAL:.2f}")
    for name in ("core", "frontends"):
        slope = soak.slope(name)
        if slope is None:
            print(f"memory of the {name}: the KV cache was not filled in time, so its growth means nothing")
        else:
            print(f"memory of the {name} grew by {slope / 2**20:+.2f} MiB per minute, goal about 0")
    print(f"failed requests: {soak.num_failed}")
    for text, count in soak.failures.items():
        print(f"  {count} failed: {text}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="a server under load for a long time")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="as `serve` takes it")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--interval", type=float, default=60.0, help="seconds of each row")
    parser.add_argument("--concurrency", type=int, default=32, help="requests under way at any time")
    parser.add_argument("--input-len", type=int, default=100, help="words of each prompt")
    parser.add_argument("--output-len", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--seed", type=int, default=0)
    own_flags, server_flags = split_at_dashes(sys.argv[1:])
    arguments = parser.parse_args(own_flags)
    with errors_as_exits(), Interruption() as interruption, own_server([arguments.model, *server_flags]) as server:
        soak = interruption.run(lambda: measure(arguments, server))
    print_summary(soak)
    if soak.num_failed:
        sys.exit(f"error: {soak.num_failed} requests failed")


if __name__ == "__main__":
    main()
