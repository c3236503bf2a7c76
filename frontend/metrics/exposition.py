"""Values as the text that a scrape gets: Prometheus' format, or OpenMetrics where it is asked for.

Owns names and labels as they are written out; the bytes are prometheus_client's business, of which nothing else is
used. Its own registry of process metrics would tell of one random frontend.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from math import inf

from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from ipc.metric_families import FAMILIES, MetricFamily, MetricKind
from ipc.metric_series import FAMILY_OF_SAMPLE, SEPARATOR, SeriesValues, bound_text

_OPENMETRICS = "application/openmetrics-text"
_write_openmetrics: Callable[[Collector], bytes] = openmetrics.generate_latest
_SeriesOfFamily = list[tuple[str, list[str], int | float]]
"""First part of the key, label values, value."""


class MetricsText(Collector):
    """One scrape."""

    def __init__(self, values: SeriesValues, *, prefix: str, model_name: str) -> None:
        """`values` of names that this version does not know (those of a newer core) are left out."""
        self._prefix = prefix
        self._fixed_labels = {"model_name": model_name, "engine": "0"}
        self._series: dict[str, _SeriesOfFamily] = defaultdict(list)
        for key, value in values.items():
            name, *labels = key.split(SEPARATOR)
            if name in FAMILY_OF_SAMPLE:
                self._series[FAMILY_OF_SAMPLE[name].name].append((name, labels, value))

    def encode(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type, for a scrape with this Accept header, which may hold anything."""
        if _OPENMETRICS in accept:
            return _write_openmetrics(self), openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Metric]:
        """Metrics in the order of the table."""
        for family in FAMILIES.values():
            if family.name in self._series:
                yield self._metric(family, self._series[family.name])

    def _metric(self, family: MetricFamily, series: _SeriesOfFamily) -> Metric:
        name = family.full_name(self._prefix)
        stem = name.removesuffix("_total") if family.kind is MetricKind.COUNTER else name
        metric = Metric(stem, family.documentation, str(family.kind))
        fixed = {label: self._fixed_labels[label] for label in family.fixed_labels}
        if family.kind is MetricKind.HISTOGRAM:
            _add_histograms(metric, family, fixed, series)
        else:
            for _, values, value in series:
                metric.add_sample(name, fixed | dict(zip(family.labels, values, strict=False)), value)
        return metric


def _add_histograms(metric: Metric, family: MetricFamily, fixed: Mapping[str, str], series: _SeriesOfFamily) -> None:
    """Cumulate the buckets of each series."""
    counts: dict[tuple[str, ...], dict[str, int | float]] = defaultdict(dict)
    sums: dict[tuple[str, ...], int | float] = defaultdict(int)
    for sample_name, values, value in series:
        if sample_name.endswith("_sum"):
            sums[tuple(values)] = value
        else:
            counts[tuple(values[:-1])][values[-1]] = value
    for label_values, buckets in counts.items():
        labels = {**fixed, **dict(zip(family.labels, label_values, strict=False))}
        total: int | float = 0
        for bound in map(bound_text, (*family.buckets, inf)):
            total += buckets.get(bound, 0)
            metric.add_sample(f"{metric.name}_bucket", {**labels, "le": bound}, total)
        metric.add_sample(f"{metric.name}_count", labels, total)
        metric.add_sample(f"{metric.name}_sum", labels, sums[label_values])
