"""How the values of metrics travel: one flat map from the key of a series to its number.

    name ␟ label value ␟ …            a counter or gauge
    name_bucket ␟ … ␟ upper bound     how many values of a histogram are in this bucket alone
    name_sum ␟ …                      the sum of its values

Label values are in the order of `MetricFamily.labels`; those that all series share are not in a key. Counts of buckets
are not cumulated before they are written out, so that maps of several processes are added up key by key.
Used by the core's snapshot and by what its clients report.
"""

import os
import time
from bisect import bisect_left
from pathlib import Path

from ipc.metric_families import FAMILIES, MetricFamily, MetricKind

SeriesValues = dict[str, int | float]
"""Values by the keys of their series."""

SEPARATOR = "\x1f"
_STATM = Path("/proc/self/statm")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def series_key(name: str, *label_values: str) -> str:
    """The key of a counter or gauge."""
    return SEPARATOR.join((name, *label_values))


def bound_text(bound: float) -> str:
    """An upper bound as Prometheus writes it."""
    return "+Inf" if bound == float("inf") else repr(float(bound))


def _sample_names(family: MetricFamily) -> tuple[str, ...]:
    is_histogram = family.kind is MetricKind.HISTOGRAM
    return (f"{family.name}_bucket", f"{family.name}_sum") if is_histogram else (family.name,)


FAMILY_OF_SAMPLE = {name: family for family in FAMILIES.values() for name in _sample_names(family)}
"""By the first part of a key."""


class HistogramCounts:
    """One series of a histogram; written by one thread, may be read by others."""

    def __init__(self, name: str, *label_values: str) -> None:
        """`name` is that of a family with buckets."""
        self._bounds = FAMILIES[name].buckets
        bounds = [*map(bound_text, self._bounds), bound_text(float("inf"))]
        self._keys = [series_key(f"{name}_bucket", *label_values, bound) for bound in bounds]
        self._sum_key = series_key(f"{name}_sum", *label_values)
        self._counts = [0] * len(self._keys)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def write_to(self, values: SeriesValues) -> None:
        """Put its series into a map."""
        values.update(zip(self._keys, self._counts, strict=True))
        values[self._sum_key] = self._sum


def resident_bytes() -> int:
    """Memory of this process."""
    return int(_STATM.read_text().split()[1]) * _PAGE_BYTES


def cpu_seconds() -> float:
    """CPU time of all threads of this process."""
    return time.process_time()
