"""A run as a PNG: throughput, first token and token times over the load, a line for each server.

Called by `commands.py`; needs matplotlib, which the extra `bench` brings. Invariant: whether it can be drawn is known
before anything is measured.
"""

from collections.abc import Sequence
from pathlib import Path

from fast_inference.bench.measurement import Measurement
from ipc.errors import ConfigError

_PANELS = (
    ("output tokens per second", (("output_throughput", ""),)),
    ("time to first token, ms", (("median_ttft_ms", "median"), ("p99_ttft_ms", "p99"))),
    ("time per output token, ms", (("median_tpot_ms", "median"), ("p99_tpot_ms", "p99"))),
)
_STYLES = {"": "o-", "median": "o-", "p99": ".:"}


def require_matplotlib() -> None:
    """See that plots can be drawn.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError("--plot needs matplotlib: pip install 'fast-inference[bench]'") from error


def draw_plot(measurements: Sequence[Measurement], path: Path) -> None:
    """Write the picture.

    Raises:
        ConfigError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(_PANELS), 4.0), layout="constrained")
    is_open = measurements[0].load.concurrency is None
    levels = sorted({_level(measurement) for measurement in measurements})
    for axes, (label, numbers) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        for index, (name, of_name) in enumerate(_series(measurements).items()):
            for number, statistic in numbers:
                points = [(_level(m), value) for m in of_name if (value := m.median(number)) is not None]
                if points:
                    caption = f"{name} {statistic}".rstrip()
                    axes.plot(*zip(*points, strict=True), _STYLES[statistic], color=f"C{index}", label=caption)
        axes.set_xscale("log", base=2)
        axes.set_xticks(levels, [f"{level:g}" for level in levels])
        axes.set_xlabel("requests per second" if is_open else "concurrency")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    try:
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _level(measurement: Measurement) -> float:
    load = measurement.load
    level = load.request_rate if load.concurrency is None else load.concurrency
    assert level is not None
    return level


def _series(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """One line for each server and, where they differ, each pair of lengths."""
    lengths = {(m.load.input_len, m.load.output_len) for m in measurements}
    series: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        of_lengths = f", {measurement.load.input_len}/{measurement.load.output_len}" if len(lengths) > 1 else ""
        series.setdefault(measurement.target.name + of_lengths, []).append(measurement)
    return series
