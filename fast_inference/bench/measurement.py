"""Loads, rounds and servers: what is run in which order, and what the rounds come to.

Called by `commands.py`. Servers take turns within each round, and every other round the other way round, so that what
else happens on the machine meets all of them. Invariants: before a server is measured under a load, it has answered
warm-up requests of that load; a server that answers none of them ends the run.
Next: `report.py`.
"""

import statistics
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from fast_inference.bench.connection import Client, Failure
from fast_inference.bench.load import closed_loop, open_loop
from fast_inference.bench.metrics import LoadMetrics, summarize
from fast_inference.bench.target import RequestOptions, Target
from fast_inference.bench.workload import Load, Workload, arrival_times
from ipc.errors import ConfigError

_OPEN_LOOP_WARMUPS = 4
_WARMUP_TOKENS = 16
_WARMUP_DRAW = 1_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run."""

    targets: Sequence[Target]
    """The first one is the baseline of ratios."""
    loads: Sequence[Load]
    workload: Workload
    warmup: Workload
    options: RequestOptions
    seed: int = 0
    rounds: int = 1
    num_warmups: int | None = None
    """For each server and load; as many as the concurrency where None."""


@dataclass(slots=True)
class Measurement:
    """One server under one load."""

    load: Load
    target: Target
    rounds: list[LoadMetrics] = field(default_factory=list)

    @property
    def completed(self) -> int:
        """Complete answers of all rounds."""
        return sum(metrics.completed for metrics in self.rounds)

    @property
    def failed(self) -> int:
        """Failed requests of all rounds."""
        return sum(metrics.failed for metrics in self.rounds)

    def median(self, name: str) -> float | None:
        """The median over the rounds of a number by vLLM's name; None where no round has it."""
        values = [flat[name] for metrics in self.rounds if name in (flat := metrics.as_flat())]
        return statistics.median(values) if values else None


@dataclass(frozen=True, slots=True)
class Ratio:
    """The baseline's number over another server's: of the medians, and the lowest and highest of one round."""

    of_medians: float
    low: float
    high: float


def ratio(baseline: Measurement, other: Measurement, name: str) -> Ratio | None:
    """How the baseline compares in one number; None where a server lacks it or it is zero."""
    ours, theirs = baseline.median(name), other.median(name)
    if ours is None or not theirs:
        return None
    pairs = zip(baseline.rounds, other.rounds, strict=True)
    numbers = [(mine.as_flat().get(name), its.as_flat().get(name)) for mine, its in pairs]
    by_round = [mine / its for mine, its in numbers if mine is not None and its]
    return Ratio(ours / theirs, min(by_round), max(by_round))


async def measure(plan: Plan, measurements: list[Measurement], say: Callable[[str], None]) -> None:
    """Run all of it, load by load; `say` is told of each result as it comes.

    `measurements` takes the results as they come, so that what is there before a cancellation is not lost with it.

    Raises:
        ConfigError: a server answers none of its warm-up requests, or a prompt does not fit the endpoint.
    """
    async with AsyncExitStack() as stack:
        clients = {t: await stack.enter_async_context(t.client(plan.options)) for t in plan.targets}
        for load_number, load in enumerate(plan.loads):
            of_load = [Measurement(load, target) for target in plan.targets]
            measurements += of_load
            for measurement in of_load:
                await _warm_up(plan, load, load_number, measurement.target, clients[measurement.target])
            for round_number in range(plan.rounds):
                for measurement in of_load[:: -1 if round_number % 2 else 1]:
                    target = measurement.target
                    metrics = await _run(plan, load, (load_number, round_number), target, clients[target])
                    measurement.rounds.append(metrics)
                    say(_progress(plan, measurement, metrics))


def complete_rounds(plan: Plan, measurements: Sequence[Measurement]) -> list[Measurement]:
    """Of a run that was cancelled: the loads with at least one round that all servers have, and those rounds."""
    complete: list[Measurement] = []
    for first in range(0, len(measurements), len(plan.targets)):
        of_load = measurements[first : first + len(plan.targets)]
        num_rounds = min(len(measurement.rounds) for measurement in of_load)
        if num_rounds:
            complete += [replace(measurement, rounds=measurement.rounds[:num_rounds]) for measurement in of_load]
    return complete


async def _run(plan: Plan, load: Load, draw: tuple[int, ...], target: Target, client: Client) -> LoadMetrics:
    prompts = plan.workload.prompts(load, load.num_prompts, *draw)
    requests = [target.request(prompt, plan.options) for prompt in prompts]
    if load.concurrency is not None:
        result = await closed_loop(client, requests, load.concurrency)
    else:
        result = await open_loop(client, requests, arrival_times(load, plan.seed, *draw))
    return summarize(result, [prompt.output_len for prompt in prompts] if plan.options.ignore_eos else [])


async def _warm_up(plan: Plan, load: Load, load_number: int, target: Target, client: Client) -> None:
    concurrency = load.concurrency or _OPEN_LOOP_WARMUPS
    count = concurrency if plan.num_warmups is None else plan.num_warmups
    if not count:
        return
    short = replace(load, output_len=min(load.output_len, _WARMUP_TOKENS))
    prompts = plan.warmup.prompts(short, count, _WARMUP_DRAW, load_number)
    metrics = summarize(await closed_loop(client, [target.request(p, plan.options) for p in prompts], concurrency))
    if not metrics.completed:
        reasons = "; ".join(Failure(*failure).text for failure in metrics.failure_details.items())
        raise ConfigError(f"{target.name} answered none of {count} warm-up requests: {reasons}")


def _progress(plan: Plan, measurement: Measurement, metrics: LoadMetrics) -> str:
    which = f", round {len(measurement.rounds)} of {plan.rounds}" if plan.rounds > 1 else ""
    failed = f", {metrics.failed} failed" if metrics.failed else ""
    return f"{measurement.load.name}{which}: {measurement.target.name} {metrics.output_throughput:.1f} tokens/s{failed}"
