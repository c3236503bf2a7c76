"""Loads × rounds × servers: what is measured in which order, and what is compared.

Called by `commands.py`. Servers take turns within each round of each load and every second round goes backwards, so
that a machine that becomes slower does so for all of them. Invariants: each server gets the same prompts at the same
times; only one server is under load at any time; nothing is made or read while a load runs.
Next: `load.py` (one load), `metrics.py` (its numbers), `report.py`.
"""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from fast_inference.bench.connection import Client
from fast_inference.bench.load import LoadResult, run_closed_loop, run_open_loop
from fast_inference.bench.metrics import THROUGHPUTS, Metrics, median_of, metrics_of
from fast_inference.bench.target import RequestOptions, Target
from fast_inference.bench.workload import Load, Workload, arrival_times

_WARM_UP = 1
"""In the numbers that a prompt is drawn by: nothing that was measured is asked in a warm-up."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What to measure."""

    targets: tuple[Target, ...]
    """The first is compared with the others."""
    loads: tuple[Load, ...]
    options: RequestOptions
    rounds: int = 1
    num_warmups: int = 1
    """Requests to each server before its first round of each load, not counted."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ServerResult:
    """One load on one server."""

    target: Target
    rounds: tuple[Metrics, ...]
    median: Metrics


@dataclass(frozen=True, slots=True)
class LoadComparison:
    """One load on each server, in the order of the schedule."""

    load: Load
    servers: tuple[ServerResult, ...]

    def ratio(self, name: str, peer: ServerResult) -> float | None:
        """The first server's value over the peer's: more than 1 is better for a throughput, less for a latency."""
        ours, theirs = self.servers[0].median.values[name], peer.median.values[name]
        return ours / theirs if ours is not None and theirs else None


async def measure(schedule: Schedule, workload: Workload, say: Callable[[str], None]) -> list[LoadComparison]:
    """Run all loads; `say` gets a line after each load on a server.

    Raises:
        ConfigError: a prompt is not of a form that the endpoint takes.
    """
    comparisons: list[LoadComparison] = []
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(target.client(schedule.options)) for target in schedule.targets]
        for number, load in enumerate(schedule.loads):
            rounds: list[list[Metrics]] = [[] for _ in clients]
            for round_number in range(schedule.rounds):
                for index in _turns(len(clients), round_number):
                    turn = _Turn(schedule, workload, load, schedule.targets[index], clients[index])
                    if round_number == 0 and schedule.num_warmups:
                        await turn.warm_up(number)
                    metrics = await turn.run(number, round_number)
                    rounds[index].append(metrics)
                    say(_progress_line(turn, round_number, metrics))
            servers = zip(schedule.targets, rounds, strict=True)
            comparisons.append(
                LoadComparison(load, tuple(ServerResult(target, tuple(of), median_of(of)) for target, of in servers))
            )
    return comparisons


def _turns(num_targets: int, round_number: int) -> Sequence[int]:
    turns = range(num_targets)
    return turns[::-1] if round_number % 2 else turns


@dataclass(frozen=True, slots=True)
class _Turn:
    schedule: Schedule
    workload: Workload
    load: Load
    target: Target
    client: Client

    async def warm_up(self, load_number: int) -> None:
        prompts = self.workload.prompts(self.load, self.schedule.num_warmups, load_number, 0, _WARM_UP)
        requests = [self.target.request(prompt, self.schedule.options) for prompt in prompts]
        await run_closed_loop(self.client, requests, self.load.concurrency or len(requests))

    async def run(self, load_number: int, round_number: int) -> Metrics:
        prompts = self.workload.prompts(self.load, self.load.num_prompts, load_number, round_number)
        requests = [self.target.request(prompt, self.schedule.options) for prompt in prompts]
        result: LoadResult
        if self.load.concurrency is not None:
            result = await run_closed_loop(self.client, requests, self.load.concurrency)
        else:
            arrivals_s = arrival_times(self.load, self.schedule.seed, load_number, round_number)
            result = await run_open_loop(self.client, requests, arrivals_s)
        asked = [prompt.output_len for prompt in prompts] if self.schedule.options.ignore_eos else []
        return metrics_of(result, asked)


def _progress_line(turn: _Turn, round_number: int, metrics: Metrics) -> str:
    tokens_per_s = metrics.values[THROUGHPUTS[1]] or 0.0
    failed = f", {metrics.failed} failed" if metrics.failed else ""
    of = f"round {round_number + 1} of {turn.schedule.rounds}"
    return f"{turn.target.name}, {turn.load.name}, {of}: {tokens_per_s:.1f} output tokens/s{failed}"
