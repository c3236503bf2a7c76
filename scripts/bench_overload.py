#!/usr/bin/env python3
"""Whether a server that is offered ten times what it can do still does what it can.

    scripts/bench_overload.py                                             # the fake model, about 2 minutes
    scripts/bench_overload.py --model smollm2-135m-instruct --max-num-seqs 16 --deadline 10 -- --num-blocks 128
    scripts/bench_overload.py --seconds 20 --factor 5 -- --frontends 1    # flags of `fast-inference serve` after --

In turn: the peak rate, with a closed loop that keeps every place taken; the normal latency, at half of that rate; the
overload, an open loop of Poisson arrivals at `--factor` times the peak, whatever becomes of the requests before; and
half the rate again, at once. Goodput are the complete answers that come during the overload, each within `--deadline`
seconds of its request. The queue holds twice as many requests as run, so that who is accepted is answered in time.
The KV cache of a real model takes its memory when it is first written: a small one (`--num-blocks`) shows what else
grows. Exit status 1 if a goal is missed. Load generator and server share the machine: nothing else should run on
it.
"""

import argparse
import asyncio
import gc
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from fast_inference.bench.answer import read_answer
from fast_inference.bench.connection import Client, Exchange
from fast_inference.bench.goals import Figure, verdict_on
from fast_inference.bench.interruption import Interruption, errors_as_exits
from fast_inference.bench.load import sustained_loop
from fast_inference.bench.own_server import OwnServer, own_server
from fast_inference.bench.process_sizes import resident_bytes
from fast_inference.bench.target import RequestOptions, Target
from fast_inference.bench.workload import Load, RandomPrompts
from fast_inference.cli_bench import split_at_dashes
from ipc.errors import ConfigError
from ipc.process import raise_descriptor_limit

GOODPUT_SHARE = 0.9
"""Of the peak, during the overload: at least."""
REFUSAL_P99_MS = 50.0
MEMORY_MIB = 100.0
"""By which all processes together may grow during the overload."""
RECOVERY_S = 5.0
"""After the overload, until latency is normal again: at most."""
NORMAL_LATENCY = 1.5
"""Of the median of a second, over the median of the normal phase: what counts as normal."""
HALF = 0.5
"""Of the peak: the normal load."""
QUEUE_FACTOR = 2
WARM_UP_SHARE = 0.2
"""Of the length of the phases before the overload."""
DRAIN_S = 30.0
"""How long answers are waited for when the last request was sent."""


@dataclass
class Outcomes:
    """What became of the requests of one phase."""

    latencies_s: list[float] = field(default_factory=list)
    """Of complete answers."""
    sent_at: list[float] = field(default_factory=list)
    """Of the same."""
    refusals_s: list[float] = field(default_factory=list)
    """Time to a whole refusal: 429 with Retry-After."""
    failures: Counter[str] = field(default_factory=Counter)
    """Everything else."""
    lags_s: list[float] = field(default_factory=list)
    """How late the load generator was with each request."""

    def take(self, exchange: Exchange, ended_at: float) -> None:
        """Count one."""
        if exchange.status == 429 and exchange.failure is None and (exchange.retry_after_s or 0) >= 1:
            self.refusals_s.append(ended_at - exchange.sent_at)
            return
        answer = read_answer(exchange)
        if answer.failure is None:
            self.latencies_s.append(answer.e2el_s)
            self.sent_at.append(exchange.sent_at)
        else:
            self.failures[answer.failure.text] += 1

    def num_in_time(self, deadline_s: float, until: float) -> int:
        """Complete answers within so many seconds, that came before this moment."""
        answers = zip(self.sent_at, self.latencies_s, strict=True)
        return sum(latency_s <= deadline_s and sent_at + latency_s <= until for sent_at, latency_s in answers)

    def recovered_after_s(self, began_at: float, normal_s: float) -> float:
        """From the beginning to the end of the last second whose median latency was not normal."""
        by_second: dict[int, list[float]] = {}
        for sent_at, latency_s in zip(self.sent_at, self.latencies_s, strict=True):
            by_second.setdefault(int(sent_at - began_at), []).append(latency_s)
        slow = [second for second, values in by_second.items() if np.median(values) > NORMAL_LATENCY * normal_s]
        return max(slow, default=-1) + 1.0 if by_second else float("nan")


class Overload:
    """One run against one server."""

    def __init__(self, arguments: argparse.Namespace, server: OwnServer, target: Target, client: Client) -> None:
        self._arguments, self._server, self._client = arguments, server, client
        source, options = RandomPrompts(arguments.seed), options_of(arguments)
        load = Load(1, arguments.input_len, arguments.output_len, concurrency=1)
        self._requests: Iterator[bytes] = (
            target.request(source.prompts(load, 1, turn)[0], options) for turn in itertools.count()
        )
        self.ended_at = 0.0
        """When the overload was over."""
        self._random = np.random.default_rng([arguments.seed, 1])

    async def peak_rate(self) -> float:
        """Answers per second with every place taken and as many requests waiting as half of them."""
        concurrency, seconds = self._arguments.max_num_seqs * 3 // 2, self._arguments.peak_seconds
        await sustained_loop(self._client, self._requests, concurrency, WARM_UP_SHARE * seconds, lambda _: None)
        ended_at: list[float] = []
        failures: Counter[str] = Counter()
        began_at = time.perf_counter()
        await sustained_loop(
            self._client,
            self._requests,
            concurrency,
            seconds,
            lambda result: (
                failures.update([result.failure.text]) if result.failure else ended_at.append(result.ended_at)
            ),
        )
        if failures:
            raise ConfigError(f"requests fail without overload: {failures.most_common(1)[0][0]}")
        if not (num_in_time := sum(moment - began_at <= seconds for moment in ended_at)):
            raise ConfigError("no request was answered in time: use more --peak-seconds")
        return num_in_time / seconds

    async def offer(self, rate: float, seconds: float) -> Outcomes:
        """Poisson arrivals for so long; returns when all are answered."""
        gaps_s = self._random.exponential(1 / rate, int(rate * seconds * 1.2) + 20)
        times_s = [at for at in np.cumsum(gaps_s).tolist() if at < seconds]
        requests = list(itertools.islice(self._requests, len(times_s)))
        outcomes = Outcomes()

        async def exchange(request: bytes) -> None:
            exchange = await self._client.exchange(request)
            outcomes.take(exchange, time.perf_counter())

        gc.collect()
        gc.freeze()
        began_at = time.perf_counter()
        tasks: set[asyncio.Task[None]] = set()
        for at, request in zip(times_s, requests, strict=True):
            await asyncio.sleep(began_at + at - time.perf_counter())
            outcomes.lags_s.append(time.perf_counter() - began_at - at)
            task = asyncio.create_task(exchange(request))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=DRAIN_S)
        outcomes.failures["not answered"] += len(tasks)
        gc.unfreeze()
        return outcomes

    async def overload(self, rate: float) -> tuple[Outcomes, float, Outcomes]:
        """Too many requests, then at once half the peak, for as long as it takes to see it recover.

        Returns:
            What became of both, and between them the bytes by which all processes grew meanwhile.
        """
        before = peak = self._memory()
        is_over = asyncio.Event()

        async def watch() -> None:
            nonlocal peak
            while not is_over.is_set():
                peak = max(peak, self._memory())
                await asyncio.sleep(0.5)

        async def recover() -> Outcomes:
            await asyncio.sleep(self._arguments.seconds)
            self.ended_at = time.perf_counter()
            return await self.offer(HALF * rate, self._arguments.recovery_seconds)

        watching = asyncio.create_task(watch())
        recovering = asyncio.create_task(recover())
        outcomes = await self.offer(self._arguments.factor * rate, self._arguments.seconds)
        recovered = await recovering
        is_over.set()
        await watching
        return outcomes, float(peak - before), recovered

    def _memory(self) -> int:
        pids = [self._server.core_pid, *self._server.frontend_pids]
        return sum(resident_bytes(pid) or 0 for pid in pids if pid is not None)


def options_of(arguments: argparse.Namespace) -> RequestOptions:
    """Of all requests."""
    return RequestOptions(keep_alive=not arguments.new_connections)


def p99_ms(values_s: list[float]) -> float:
    """Of seconds; NaN where there are none."""
    return float(np.percentile(values_s, 99)) * 1e3 if values_s else float("nan")


async def measure(arguments: argparse.Namespace, server: OwnServer) -> list[Figure]:
    """All phases."""
    options = options_of(arguments)
    target = await Target.parse(server.url).with_model(options, None)
    async with target.client(options) as client:
        run = Overload(arguments, server, target, client)
        peak = await run.peak_rate()
        print(f"peak: {peak:.1f} answers/s of {arguments.output_len} tokens", flush=True)
        normal = await run.offer(HALF * peak, arguments.peak_seconds)
        normal_s = float(np.median(normal.latencies_s)) if normal.latencies_s else float("nan")
        print(f"normal latency at half of it: median {normal_s * 1e3:.0f} ms", flush=True)
        outcomes, num_bytes, recovered = await run.overload(peak)
    offered = len(outcomes.lags_s) / arguments.seconds
    goodput = outcomes.num_in_time(arguments.deadline, run.ended_at) / arguments.seconds
    failures = outcomes.failures + normal.failures + recovered.failures
    num_refused = len(outcomes.refusals_s)
    print(
        f"overload: {offered:.0f} requests/s for {arguments.seconds:.0f} s, {len(outcomes.latencies_s)} answered, "
        f"{num_refused} refused; latency p99 {p99_ms(outcomes.latencies_s):.0f} ms, "
        f"load generator late by p99 {p99_ms(outcomes.lags_s):.1f} ms",
        flush=True,
    )
    for text, count in failures.most_common():
        if count:
            print(f"  {count} failed: {text}")
    after_s = recovered.recovered_after_s(run.ended_at, normal_s)
    return [
        Figure("goodput over peak", goodput / peak, GOODPUT_SHARE, "x", is_minimum=True),
        Figure("requests offered over peak", offered / peak, 0.95 * arguments.factor, "x", is_minimum=True),
        Figure("time to a refusal (429 with Retry-After), p99", p99_ms(outcomes.refusals_s), REFUSAL_P99_MS, "ms"),
        Figure("requests that failed otherwise", failures.total(), 0),
        Figure("growth of all processes", num_bytes / 2**20, MEMORY_MIB, "MiB"),
        Figure("latency is normal again after", after_s, RECOVERY_S, "s"),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="a server that is offered more than it can do")
    parser.add_argument("--model", default="fake", help="as `serve` takes it")
    parser.add_argument("--fake-step-ms", type=float, default=20.0, help="of the fake model")
    parser.add_argument("--max-num-seqs", type=int, default=32, help="of the server")
    parser.add_argument("--factor", type=float, default=10.0, help="offered rate over the peak")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the overload")
    parser.add_argument("--peak-seconds", type=float, default=10.0, help="of the phases before it, each")
    parser.add_argument("--recovery-seconds", type=float, default=10.0, help="of half the peak after it")
    parser.add_argument("--deadline", type=float, default=5.0, help="seconds within which an answer is good")
    parser.add_argument("--input-len", type=int, default=20, help="words of each prompt")
    parser.add_argument("--output-len", type=int, default=32, help="tokens of each answer")
    parser.add_argument("--new-connections", action="store_true", help="one for each request")
    parser.add_argument("--seed", type=int, default=0)
    own_flags, server_flags = split_at_dashes(sys.argv[1:])
    arguments = parser.parse_args(own_flags)
    raise_descriptor_limit()
    flags = ["--max-num-seqs", str(arguments.max_num_seqs)]
    flags += ["--max-queued-requests", str(QUEUE_FACTOR * arguments.max_num_seqs)]
    if arguments.model == "fake":
        flags += ["--fake-step-ms", str(arguments.fake_step_ms)]
    command = [arguments.model, *flags, *server_flags]
    with errors_as_exits(), Interruption() as interruption, own_server(command) as server:
        figures = interruption.run(lambda: measure(arguments, server))
    for figure in figures:
        print(f"  {figure}")
    sys.exit(verdict_on(figures))


if __name__ == "__main__":
    main()
