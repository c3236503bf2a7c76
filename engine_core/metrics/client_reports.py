"""What the clients of the core report of themselves: increments of counters, and gauges as of now.

Owned by the I/O thread. A frontend that dies takes its gauges with it, and nothing of what it had counted: increments
are added to one sum as they come, so totals never fall while this core lives, and begin at zero with it.
Invariant: only known series are kept, at most `MAX_SERIES`; whatever else a client sends is refused.
"""

import math

from ipc.errors import ProtocolError
from ipc.messages import ClientMetrics
from ipc.metric_families import MetricKind, MetricOrigin
from ipc.metric_series import FAMILY_OF_SAMPLE, SEPARATOR, SeriesValues, bound_text

MAX_SERIES = 8192
MAX_GAUGES = 256
"""Of one client."""
_MAX_LABEL_CHARS = 200


class ClientReports:
    """Sums over all clients."""

    def __init__(self) -> None:
        self._sums: SeriesValues = {}

    def add(self, report: ClientMetrics) -> None:
        """Take in the counters of a report.

        Raises:
            ProtocolError: it holds what no client may report; nothing of it counts.
        """
        if len(report.gauges) > MAX_GAUGES:
            raise ProtocolError(f"more than {MAX_GAUGES} gauges")
        for key, value in report.counters.items():
            self._check(key, value, is_gauge=False)
        for key, value in report.gauges.items():
            self._check(key, value, is_gauge=True)
        for key, value in report.counters.items():
            self._sums[key] = self._sums.get(key, 0) + value

    def values(self, gauges_of_clients: list[SeriesValues]) -> SeriesValues:
        """The sums, and those of the gauges that the clients of now have reported last."""
        values = self._sums.copy()
        for gauges in gauges_of_clients:
            for key, value in gauges.items():
                values[key] = values.get(key, 0) + value
        return values

    def _check(self, key: str, value: float, *, is_gauge: bool) -> None:
        if not 0 <= value < math.inf:
            raise ProtocolError("a metric that is no finite number from 0")
        if not is_gauge and key in self._sums:
            return
        if len(self._sums) >= MAX_SERIES:
            raise ProtocolError(f"more than {MAX_SERIES} series of metrics")
        name, *labels = key.split(SEPARATOR)
        family = FAMILY_OF_SAMPLE.get(name)
        if family is None or family.origin is not MetricOrigin.CLIENT:
            raise ProtocolError("a metric that is not for clients")
        if (family.kind is MetricKind.GAUGE) is not is_gauge:
            raise ProtocolError(f"{name}: a counter among gauges, or the other way round")
        bounds = {*map(bound_text, family.buckets), bound_text(math.inf)}
        if name.endswith("_bucket") and not (labels and labels.pop() in bounds):
            raise ProtocolError(f"{name} has no such bucket")
        if len(labels) != len(family.labels) or any(len(label) > _MAX_LABEL_CHARS for label in labels):
            raise ProtocolError(f"{name} has other labels")
