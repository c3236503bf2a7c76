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

from ipc.metric_families import FAMILIES, MetricFamily, MetricKind, core_label
from ipc.metric_series import FAMILY_OF_SAMPLE, SEPARATOR, SeriesValues, bound_text

_OPENMETRICS = "application/openmetrics-text"
_write_openmetrics: Callable[[Collector], bytes] = openmetrics.generate_latest
_Labels = dict[str, str]
_SeriesOfFamily = list[tuple[str, _Labels, list[str], int | float]]
"""First part of the key, labels that are not in it, the values of the others, value."""


class MetricsText(Collector):
    """One scrape."""

    def __init__(
        self,
        of_server: SeriesValues,
        of_cores: Mapping[str, SeriesValues],
        *,
        prefix: str,
        model_name: str,
    ) -> None:
        """`of_cores`: by the name of the core; what is no core's own is added up to the values of the server.

        Values of names that this version does not know (those of a newer core) are left out.
        """
        self._prefix = prefix
        self._model_name = model_name
        self._series: dict[str, _SeriesOfFamily] = defaultdict(list)
        sums = dict(of_server)
        for core, values in of_cores.items():
            for key, value in values.items():
                family = FAMILY_OF_SAMPLE.get(key.partition(SEPARATOR)[0])
                if family is not None and family.is_per_core:
                    self._add(family, key, value, {core_label(prefix): core})
                elif family is not None:
                    sums[key] = sums.get(key, 0) + value
        for key, value in sums.items():
            self._add(FAMILY_OF_SAMPLE[key.partition(SEPARATOR)[0]], key, value, {})

    def _add(self, family: MetricFamily, key: str, value: float, labels: _Labels) -> None:
        name, *values = key.split(SEPARATOR)
        if len(values) != len(family.labels) + name.endswith("_bucket"):
            return  # not as a core writes it; one that is wrong must not take the others away
        self._series[family.name].append((name, labels, values, value))

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
        fixed = {"model_name": self._model_name} if family.has_prefix else {}
        if family.kind is MetricKind.HISTOGRAM:
            _add_histograms(metric, family, fixed, series)
        else:
            for _, labels, values, value in series:
                metric.add_sample(name, {**fixed, **labels, **dict(zip(family.labels, values, strict=False))}, value)
        return metric


def _add_histograms(metric: Metric, family: MetricFamily, fixed: _Labels, series: _SeriesOfFamily) -> None:
    """Cumulate the buckets of each series."""
    counts: dict[tuple[tuple[str, str], ...], dict[str, int | float]] = defaultdict(dict)
    sums: dict[tuple[tuple[str, str], ...], int | float] = defaultdict(int)
    for sample_name, labels, values, value in series:
        of_histogram = (*labels.items(), *zip(family.labels, values, strict=False))
        if sample_name.endswith("_sum"):
            sums[of_histogram] = value
        else:
            counts[of_histogram][values[-1]] = value
    for of_histogram, buckets in counts.items():
        all_labels = {**fixed, **dict(of_histogram)}
        total: int | float = 0
        for bound in map(bound_text, (*family.buckets, inf)):
            total += buckets.get(bound, 0)
            metric.add_sample(f"{metric.name}_bucket", {**all_labels, "le": bound}, total)
        metric.add_sample(f"{metric.name}_count", all_labels, total)
        metric.add_sample(f"{metric.name}_sum", all_labels, sums[of_histogram])
