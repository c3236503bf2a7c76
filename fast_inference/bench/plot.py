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
_STYLES = {"": "-", "median": "-", "p99": ":"}


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
    names = list(dict.fromkeys(measurement.target.name for measurement in measurements))
    is_open = measurements[0].load.concurrency is None
    for axes, (label, lines) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        for index, name in enumerate(names):
            for number, statistic in lines:
                points = [
                    (m.load.request_rate if is_open else m.load.concurrency, value)
                    for m in measurements
                    if m.target.name == name and (value := m.median(number)) is not None
                ]
                if points:
                    caption = f"{name} {statistic}".rstrip()
                    style = _STYLES[statistic] + "o"
                    axes.plot(*zip(*points, strict=True), style, color=f"C{index}", label=caption, markersize=4)
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
