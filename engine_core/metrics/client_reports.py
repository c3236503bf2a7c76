"""What the clients of the core report of themselves: increments of counters, and gauges as of now.

Owned by the I/O thread. A frontend that dies takes its gauges with it, and nothing of what it had counted: increments
are added to one sum as they come, so totals never fall while this core lives, and begin at zero with it.
Invariant: only known series are kept, as many as `MAX_SAMPLES` says, with numbers up to `MAX_VALUE`, so that a scrape
can be answered whatever a client sends; all else is refused.
"""

from ipc.errors import ProtocolError
from ipc.messages import ClientMetrics
from ipc.metric_families import MetricFamily, MetricKind, MetricOrigin
from ipc.metric_series import FAMILY_OF_SAMPLE, SEPARATOR, SeriesValues, bound_text

MAX_SAMPLES = 4096
"""Lines of counters and histograms that a scrape has for clients; a server with all its routes in use has a quarter."""
MAX_GAUGES = 64
"""Of one client, and of all together."""
MAX_VALUE = 2**53
"""Of a number in a report, and of a sum, which stays there: a reply has no room for integers over 2^64."""
_MAX_LABEL_CHARS = 200
_INFINITY = bound_text(float("inf"))


class ClientReports:
    """Sums over all clients."""

    def __init__(self) -> None:
        self._sums: SeriesValues = {}
        self._label_sets: set[tuple[str, ...]] = set()
        """Names of families with label values, of each that has a sum."""
        self._num_samples = 0
        """Lines of all these."""

    def add(self, report: ClientMetrics) -> int:
        """Take in the counters of a report; returns how many were left out, because there are too many series.

        Raises:
            ProtocolError: it holds what no client may report; nothing of it counts.
        """
        if len(report.gauges) > MAX_GAUGES:
            raise ProtocolError(f"more than {MAX_GAUGES} gauges")
        for key, value in report.counters.items():
            self._check(key, value, is_gauge=False)
        for key, value in report.gauges.items():
            self._check(key, value, is_gauge=True)
        num_left_out = 0
        for key, value in report.counters.items():
            if key in self._sums or self._has_room(key):
                self._sums[key] = min(MAX_VALUE, self._sums.get(key, 0) + value)
            else:
                num_left_out += 1
        return num_left_out

    def values(self, gauges_of_clients: list[SeriesValues]) -> SeriesValues:
        """The sums, and those of the gauges that the clients of now have reported last."""
        of_now: SeriesValues = {}
        for gauges in gauges_of_clients:
            for key, value in gauges.items():
                if key in of_now or len(of_now) < MAX_GAUGES:
                    of_now[key] = min(MAX_VALUE, of_now.get(key, 0) + value)
        return self._sums | of_now

    def _check(self, key: str, value: float, *, is_gauge: bool) -> None:
        if not 0 <= value <= MAX_VALUE:
            raise ProtocolError(f"a metric that is no number from 0 to {MAX_VALUE}")
        if not is_gauge and key in self._sums:
            return
        name, *labels = key.split(SEPARATOR)
        family = FAMILY_OF_SAMPLE.get(name)
        if family is None or family.origin is not MetricOrigin.CLIENT:
            raise ProtocolError("a metric that is not for clients")
        if (family.kind is MetricKind.GAUGE) is not is_gauge:
            raise ProtocolError(f"{name}: a counter among gauges, or the other way round")
        bounds = {*map(bound_text, family.buckets), _INFINITY}
        if name.endswith("_bucket") and not (labels and labels.pop() in bounds):
            raise ProtocolError(f"{name} has no such bucket")
        if len(labels) != len(family.labels) or any(len(label) > _MAX_LABEL_CHARS for label in labels):
            raise ProtocolError(f"{name} has other labels")

    def _has_room(self, key: str) -> bool:
        """Take room for a series; those of one histogram have theirs together."""
        name, *labels = key.split(SEPARATOR)
        family = FAMILY_OF_SAMPLE[name]
        label_set = (family.name, *labels[: len(family.labels)])
        if label_set not in self._label_sets:
            num_samples = self._num_samples + _num_samples(family)
            if num_samples > MAX_SAMPLES:
                return False
            self._num_samples = num_samples
            self._label_sets.add(label_set)
        return True


def _num_samples(family: MetricFamily) -> int:
    """Lines of one label set; a histogram also has `+Inf`, `_count` and `_sum`."""
    return len(family.buckets) + 3 if family.kind is MetricKind.HISTOGRAM else 1
