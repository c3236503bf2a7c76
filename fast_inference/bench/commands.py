"""The commands `bench serve`, `bench latency` and `bench throughput`: from parsed flags to printed numbers.

Called by `cli_bench.py`, which owns the flags. Invariant: what a run can stumble over in the end, such as a folder that
is not there or a missing plot library, is refused before anything is measured. A run that is interrupted reports what
was complete, and then raises `Interrupted`.
Next: `workload.py`, then `measurement.py`.
"""

import argparse
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fast_inference.bench.interruption import Interrupted, Interruption
from fast_inference.bench.measurement import Measurement, Plan, complete_rounds, measure
from fast_inference.bench.own_server import own_server
from fast_inference.bench.plot import draw_plot, require_matplotlib
from fast_inference.bench.report import (
    comparison_report,
    latency_report,
    load_report,
    report_as_json,
    throughput_report,
)
from fast_inference.bench.target import RequestOptions, Target
from fast_inference.bench.workload import Dataset, Load, RandomPrompts
from ipc.errors import ConfigError

DEFAULT_URL = "http://127.0.0.1:8000"
_LEAST_PROMPTS = 16
_PROMPTS_PER_SEAT = 4
_OPEN_LOOP_PROMPTS = 100

Say = Callable[[str], None]


@dataclass(slots=True)
class _Run:
    """What a command did so far."""

    plan: Plan | None = None
    """None until the servers are known."""
    measurements: list[Measurement] = field(default_factory=list)
    interrupted: Interrupted | None = None


def serve(flags: argparse.Namespace, command: Sequence[str], tell: Say, say: Say, interruption: Interruption) -> int:
    """Load one server or several in turn; returns the number of failed requests.

    `tell` takes what happens meanwhile, `say` takes the results.

    Raises:
        ConfigError: a server, a file or a prompt is not as it must be.
        Interrupted: a signal came; what was complete has been reported.
    """
    if flags.compare:
        targets = [Target.parse(url, name) for name, url in flags.compare]
    else:
        targets = [Target.parse(flags.url or DEFAULT_URL)]
    levels: list[dict[str, Any]] = [{"concurrency": level} for level in flags.concurrency or ()]
    if flags.request_rate:
        levels = [{"request_rate": rate, "burstiness": flags.burstiness} for rate in flags.request_rate]
    loads = [
        Load(flags.num_prompts or _default_num_prompts(level), input_len, output_len, **level)
        for input_len, output_len, level in itertools.product(flags.input_len, flags.output_len, levels)
    ]
    run = _run(flags, targets, loads, tell, interruption)
    report = comparison_report if flags.compare else _load_reports
    return _finish(flags, run, command, say, report)


def latency(flags: argparse.Namespace, command: Sequence[str], tell: Say, say: Say, interruption: Interruption) -> int:
    """One request after the other; the rest is as for `serve`."""
    run = _one_server(flags, tell, 1, interruption)
    return _finish(flags, run, command, say, latency_report)


def throughput(
    flags: argparse.Namespace, command: Sequence[str], tell: Say, say: Say, interruption: Interruption
) -> int:
    """All requests at once, or as many at a time as `--concurrency` allows; the rest is as for `serve`."""
    run = _one_server(flags, tell, flags.concurrency or flags.num_prompts, interruption)
    return _finish(flags, run, command, say, throughput_report)


def _one_server(flags: argparse.Namespace, tell: Say, concurrency: int, interruption: Interruption) -> _Run:
    lengths = itertools.product(flags.input_len, flags.output_len)
    loads = [
        Load(flags.num_prompts, input_len, output_len, concurrency=concurrency) for input_len, output_len in lengths
    ]
    with _given_or_own_server(flags) as target:
        return _run(flags, [target], loads, tell, interruption)


@contextlib.contextmanager
def _given_or_own_server(flags: argparse.Namespace) -> Iterator[Target]:
    if flags.url:
        yield Target.parse(flags.url)
        return
    model = [flags.model] if flags.model else []
    with own_server([*model, *flags.server_flags]) as server:
        flags.model = None  # the first name that it lists is the one it was started with
        yield Target.parse(server.url, "own server")


def _run(
    flags: argparse.Namespace, targets: Sequence[Target], loads: Sequence[Load], tell: Say, interruption: Interruption
) -> _Run:
    if flags.plot:
        require_matplotlib()
    for path in filter(None, (flags.output, flags.plot)):
        if not path.resolve().parent.is_dir():
            raise ConfigError(f"cannot write {path}: there is no folder {path.resolve().parent}")
    seed = int(time.time()) if flags.seed is None else flags.seed
    vocab_size = flags.vocab_size if flags.input_unit == "tokens" else None
    random_prompts = RandomPrompts(seed, prefix_len=flags.prefix_len, vocab_size=vocab_size)
    dataset = Dataset(flags.dataset) if flags.dataset else None
    options = RequestOptions(
        flags.endpoint, flags.ignore_eos, flags.extra_body, flags.api_key, flags.keep_alive, flags.timeout
    )

    done = _Run()

    async def run() -> None:
        known = [await target.with_model(options, flags.model) for target in targets]
        workload = dataset or random_prompts
        done.plan = Plan(known, loads, workload, random_prompts, options, seed, flags.rounds, flags.num_warmups)
        await measure(done.plan, done.measurements, tell)

    try:
        interruption.run(run)
    except Interrupted as interrupted:
        done.interrupted = interrupted
    if dataset is not None and dataset.repeats:
        tell(f"note: {flags.dataset} has fewer prompts than were sent, so they repeat and a prefix cache may find them")
    return done


def _heading(plan: Plan, flags: argparse.Namespace) -> str:
    prefix = f" behind {flags.prefix_len} shared" if flags.prefix_len else ""
    what = f"prompts of {flags.dataset}" if flags.dataset else f"random {flags.input_unit}{prefix}"
    servers = ", ".join(f"{target.name} ({target.model})" for target in plan.targets)
    return f"{servers}: {plan.options.endpoint}, {what}, seed {plan.seed}"


def _finish(
    flags: argparse.Namespace,
    run: _Run,
    command: Sequence[str],
    say: Say,
    report: Callable[[Sequence[Measurement]], str],
) -> int:
    plan, measurements, interrupted = run.plan, run.measurements, run.interrupted
    if interrupted is not None:
        measurements = [] if plan is None else complete_rounds(plan, measurements)
        if not measurements:
            interrupted.what_was_measured = "before a round was complete"
            raise interrupted
    assert plan is not None
    say(_heading(plan, flags))
    say(report(measurements))
    if flags.output:
        text = json.dumps(report_as_json(plan, measurements, command, is_complete=interrupted is None), indent=2)
        try:
            flags.output.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {flags.output}: {error.strerror}") from error
    if flags.plot:
        draw_plot(measurements, Path(flags.plot))
    if interrupted is not None:
        num_rounds = sum(len(measurement.rounds) for measurement in measurements) // len(plan.targets)
        interrupted.what_was_measured = f"after {num_rounds} of {len(plan.loads) * plan.rounds} rounds"
        raise interrupted
    return sum(measurement.failed for measurement in measurements)


def _load_reports(measurements: Sequence[Measurement]) -> str:
    return "\n".join(load_report(measurement) for measurement in measurements)


def _default_num_prompts(level: dict[str, Any]) -> int:
    concurrency = level.get("concurrency")
    return _OPEN_LOOP_PROMPTS if concurrency is None else max(_LEAST_PROMPTS, _PROMPTS_PER_SEAT * concurrency)
