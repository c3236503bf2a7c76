"""Outcomes as a table for people and as JSON, and as a picture: TTFT, cache hit rate and cost.

Called by `scripts/simulate_fleet.py`. Cost is in seconds of cores, which anybody can multiply by what a device costs.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from fast_inference.bench.fleet.scenario import Outcome
from ipc.errors import ConfigError

_COLUMNS = (
    ("requests/s", "requests_per_s", ".1f"),
    ("TTFT p50 ms", "ttft_p50_ms", ".0f"),
    ("TTFT p99 ms", "ttft_p99_ms", ".0f"),
    ("ITL p50 ms", "itl_p50_ms", ".1f"),
    ("ITL p99 ms", "itl_p99_ms", ".1f"),
    ("hit rate", "cache_hit_rate", ".3f"),
    ("utilisation", "utilisation", ".2f"),
    ("core s/Mtoken", "core_s_per_million_tokens", ".0f"),
    ("busiest/mean", "spread", ".2f"),
    ("moved", "requests_moved", ".0f"),
)
_PANELS = (
    ("TTFT p99, ms", "ttft_p99_ms", "log"),
    ("cached share of prompt tokens", "cache_hit_rate", "linear"),
    ("core seconds per million output tokens", "core_s_per_million_tokens", "log"),
)


def table_of(outcomes: Sequence[Outcome]) -> list[str]:
    """Lines of Markdown."""
    head = "| workload | cores | load/core | policy | " + " | ".join(title for title, _, _ in _COLUMNS) + " |"
    return [head, "|---" * (len(_COLUMNS) + 4) + "|", *map(row_of, outcomes)]


def row_of(outcome: Outcome) -> str:
    """One line of the table."""
    scenario = outcome.scenario
    cells = [format(outcome.figures[name], style) for _, name, style in _COLUMNS]
    head = [scenario.workload, str(scenario.num_cores), f"{scenario.rate:g}", scenario.policy]
    return "| " + " | ".join(head + cells) + " |"


def write_json(outcomes: Sequence[Outcome], path: Path) -> None:
    """All figures.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        path.write_text(json.dumps([outcome.as_json() for outcome in outcomes], indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """A row of three panels for each workload, over the load where that varies, else over the number of cores.

    Raises:
        ConfigError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    by_load = len({outcome.scenario.rate for outcome in outcomes}) > 1
    workloads = list(dict.fromkeys(outcome.scenario.workload for outcome in outcomes))
    policies = list(dict.fromkeys(outcome.scenario.policy for outcome in outcomes))
    figure = Figure(figsize=(12.0, 3.4 * len(workloads)), layout="constrained")
    rows = figure.subplots(len(workloads), len(_PANELS), squeeze=False)
    for workload, row in zip(workloads, rows, strict=True):
        of_workload = [outcome for outcome in outcomes if outcome.scenario.workload == workload]
        for axes, (label, name, scale) in zip(row, _PANELS, strict=True):
            for number, policy in enumerate(policies):
                points = sorted(
                    (outcome.scenario.rate if by_load else outcome.scenario.num_cores, outcome.figures[name])
                    for outcome in of_workload
                    if outcome.scenario.policy == policy
                )
                axes.plot(*zip(*points, strict=True), "o-", color=f"C{number}", label=policy, markersize=3)
            axes.set_yscale(scale)
            if not by_load:
                axes.set_xscale("log")
            axes.set_xlabel("requests per second and core" if by_load else "cores")
            axes.set_ylabel(label)
            axes.set_title(workload, fontsize="medium")
            axes.grid(alpha=0.3, which="both")
        row[0].legend(fontsize="small")
    try:
        figure.savefig(path, dpi=64, format=path.suffix.removeprefix(".") or "png")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write {path}: {error}") from error
