"""What a run came to, as text for people and as JSON for programs.

Called by `commands.py`. Text rounds, JSON does not; numbers of several rounds are their medians. Invariant: each number
is called as in vLLM's benchmark, and a load with failed requests says so beside its numbers.
Next: `plot.py`.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from fast_inference import __version__
from fast_inference.bench.connection import Failure
from fast_inference.bench.measurement import Measurement, Plan, Ratio, ratio
from fast_inference.bench.metrics import notes_on

_TIMES = ("ttft", "tpot", "itl", "e2el")
_STATISTICS = ("mean", "median", "p90", "p99")
_COMPARED = {
    "output_throughput": "output tok/s",
    "median_ttft_ms": "TTFT p50",
    "p99_ttft_ms": "TTFT p99",
    "median_tpot_ms": "TPOT p50",
    "median_itl_ms": "ITL p50",
    "p99_itl_ms": "ITL p99",
    "median_e2el_ms": "E2EL p50",
}


def load_report(measurement: Measurement) -> str:
    """All numbers of one server under one load."""
    load = measurement.load
    lines = [
        f"{load.name}: {load.num_prompts} requests, {load.input_len} in, {load.output_len} out"
        + (f"; medians of {len(measurement.rounds)} rounds" if len(measurement.rounds) > 1 else ""),
        f"  completed {measurement.completed}, failed {measurement.failed}, "
        f"duration {_shown(measurement.median('duration'))} s",
        f"  requests/s {_shown(measurement.median('request_throughput'))}, "
        f"output tok/s {_shown(measurement.median('output_throughput'), 1)}, "
        f"total tok/s {_shown(measurement.median('total_token_throughput'), 1)}",
    ]
    rows: list[tuple[str, ...]] = [("  ms", *_STATISTICS)]
    rows += [(f"  {t.upper()}", *(_shown(measurement.median(f"{s}_{t}_ms")) for s in _STATISTICS)) for t in _TIMES]
    return "\n".join([*lines, *_table(rows), *(f"  {line}" for line in remarks(measurement))])


def latency_report(measurements: Sequence[Measurement]) -> str:
    """A row for each load: first token, token and whole answer, median and p99."""
    names = [f"{part}_{time}_ms" for time in ("ttft", "tpot", "e2el") for part in ("median", "p99")]
    header = ("in", "out", "TTFT median", "p99", "TPOT median", "p99", "E2EL median", "p99 (ms)")
    return _rows_report(header, names, measurements)


def throughput_report(measurements: Sequence[Measurement]) -> str:
    """A row for each load: answers and tokens per second."""
    names = ["completed", "duration", "request_throughput", "output_throughput", "total_token_throughput"]
    header = ("in", "out", "requests", "seconds", "requests/s", "output tok/s", "total tok/s")
    return _rows_report(header, names, measurements)


def comparison_report(measurements: Sequence[Measurement]) -> str:
    """A row for each load and server; under the others' numbers, what the first server's are in relation to them."""
    baseline = measurements[0].target
    rows = [("load", "server", "failed", *_COMPARED.values())]
    for group in _by_load(measurements):
        load = group[0].load
        label = f"{load.name}, {load.input_len} in, {load.output_len} out"
        for measurement in group:
            numbers = (_shown(measurement.median(name), 1) for name in _COMPARED)
            rows.append((label, measurement.target.name, str(measurement.failed), *numbers))
            label = ""
            if measurement is not group[0]:
                ratios = (_shown_ratio(name, ratio(group[0], measurement, name)) for name in _COMPARED)
                rows.append(("", f"  {baseline.name}/{measurement.target.name}", "", *ratios))
    lines = list(_table(rows, num_left=2))
    lines.append(
        f"times in ms; {baseline.name}/NAME: the number of {baseline.name} over that of NAME (lowest to highest of a "
        "round); better is above 1 for throughput, below 1 for times"
    )
    seen = [f"{m.target.name}, {m.load.name}: {line}" for m in measurements for line in remarks(m)]
    return "\n".join([*lines, *seen])


def remarks(measurement: Measurement) -> list[str]:
    """Failures of all rounds by reason, and what one must know to read the numbers; a line each."""
    counts: dict[str, int] = {}
    details: dict[str, str] = {}
    for metrics in measurement.rounds:
        for reason, count in metrics.failures.items():
            counts[reason] = counts.get(reason, 0) + count
            details.setdefault(reason, metrics.failure_details[reason])
    lines = [f"{count} failed: {Failure(reason, details[reason]).text}" for reason, count in counts.items()]
    notes = dict.fromkeys(note for metrics in measurement.rounds[-1:] for note in notes_on(metrics))
    return [*lines, *(f"note: {note}" for note in notes)]


def report_as_json(
    plan: Plan, measurements: Sequence[Measurement], command: Sequence[str], *, is_complete: bool = True
) -> dict[str, Any]:
    """Everything of a run: each round, their medians, and the first server's ratios to the others."""
    groups = _by_load(measurements)
    return {
        "version": __version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "is_complete": is_complete,
        "num_cpus": len(os.sched_getaffinity(0)),
        "endpoint": plan.options.endpoint,
        "seed": plan.seed,
        "servers": [{"name": t.name, "url": t.url, "model": t.model} for t in plan.targets],
        "results": [_result_as_json(measurement, group[0]) for group in groups for measurement in group],
    }


def _result_as_json(measurement: Measurement, baseline: Measurement) -> dict[str, Any]:
    rounds: list[dict[str, Any]] = [
        {**metrics.as_flat(), "failures": metrics.failures, "notes": notes_on(metrics)}
        for metrics in measurement.rounds
    ]
    return {
        "server": measurement.target.name,
        "load": {"name": measurement.load.name, **asdict(measurement.load)},
        "median": _medians(measurement),
        "ratios": {} if measurement is baseline else _ratios(baseline, measurement),
        "rounds": rounds,
    }


def _rows_report(header: tuple[str, ...], names: Sequence[str], measurements: Sequence[Measurement]) -> str:
    rows = [header]
    for m in measurements:
        numbers = (_shown(m.median(name), 0 if name == "completed" else 2) for name in names)
        rows.append((str(m.load.input_len), str(m.load.output_len), *numbers))
    seen = [f"{m.load.input_len} in, {m.load.output_len} out: {line}" for m in measurements for line in remarks(m)]
    return "\n".join([*_table(rows, num_left=0), *seen])


def _by_load(measurements: Sequence[Measurement]) -> Iterable[list[Measurement]]:
    """The servers of each load; loads are different objects where they are equal."""
    groups: dict[int, list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault(id(measurement.load), []).append(measurement)
    return groups.values()


def _medians(measurement: Measurement) -> dict[str, float]:
    names = dict.fromkeys(name for metrics in measurement.rounds for name in metrics.as_flat())
    medians = {name: measurement.median(name) for name in names}
    return {name: value for name, value in medians.items() if value is not None}


def _ratios(baseline: Measurement, other: Measurement) -> dict[str, dict[str, float]]:
    compared = [name for name in _medians(other) if name.endswith(("_ms", "_throughput")) and name[:4] != "std_"]
    ratios = {name: ratio(baseline, other, name) for name in compared}
    return {name: asdict(value) for name, value in ratios.items() if value is not None}


def _table(rows: Sequence[tuple[str, ...]], num_left: int = 1) -> Iterable[str]:
    """Rows with columns as wide as they need; the first `num_left` aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.ljust(width) if index < num_left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _shown(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _shown_ratio(name: str, value: Ratio | None) -> str:
    if value is None:
        return "-"
    spread = f" ({value.low:.2f}-{value.high:.2f})" if name.endswith("_throughput") and value.low < value.high else ""
    return f"{value.of_medians:.2f}x{spread}"
