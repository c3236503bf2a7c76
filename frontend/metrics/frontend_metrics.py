"""What one frontend (or batch runner) counts, until it has told a core.

Once a second, and before each scrape, `report` goes to one core, the same as long as it lives, which adds it to the sum
of all processes; what could not be sent stays here. So the totals outlive this process, and nothing is counted twice.
Used from one event loop. Next: `ipc/client.py` sends it, `engine_core/metrics/client_reports.py` adds it up.
"""

from collections.abc import Iterable
from typing import Any

from starlette.types import Scope

from frontend.errors import ERROR_CODE_SCOPE_KEY
from ipc.messages import ClientMetrics
from ipc.metric_series import HistogramCounts, SeriesValues, cpu_seconds, resident_bytes, series_key

NO_ROUTE = "none"
"""The handler of requests that no route with their method was found for, or that were refused before."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER_METHOD = "OTHER"
_EVENT_STREAM = b"text/event-stream"


class FrontendMetrics:
    """Counts of one process."""

    def __init__(self, role: str = "frontend") -> None:
        """`role` names the kind of process in its own figures; empty where the core is in it and tells them."""
        self.num_in_progress = 0
        self.num_open_streams = 0
        self.num_connections = 0
        self._role = role
        self._counters: SeriesValues = {}
        self._durations: dict[tuple[str, str], HistogramCounts] = {}
        self._num_turned_away = 0
        self._told_cpu_s = 0.0
        self._reported_cpu_s = 0.0

    def count(self, name: str, *label_values: str, times: int = 1) -> None:
        """Add to a counter."""
        key = series_key(name, *label_values)
        self._counters[key] = self._counters.get(key, 0) + times

    def begin_request(self) -> "RequestCounting":
        """An HTTP request has come."""
        return RequestCounting(self)

    def observe_request(self, handler: str, method: str, status: int, seconds: float) -> None:
        """An HTTP request has been answered."""
        self.count("http_requests_total", handler, method, str(status))
        durations = self._durations.get((handler, method))
        if durations is None:
            durations = HistogramCounts("http_request_duration_seconds", handler, method)
            self._durations[handler, method] = durations
        durations.observe(seconds)

    def note_connections(self, num_open: int, num_turned_away: int) -> None:
        """So many connections are open, and so many were turned away since the start."""
        self.num_connections = num_open
        if num_turned_away > self._num_turned_away:
            self.count("http_connections_refused_total", times=num_turned_away - self._num_turned_away)
            self._num_turned_away = num_turned_away

    # --- ipc.client.MetricsReporter ---

    def report(self) -> ClientMetrics:
        """What has come since the last report that was sent, and gauges as of now."""
        counters = self._counters.copy()
        for durations in self._durations.values():
            durations.write_to(counters)
        gauges: SeriesValues = {
            "http_requests_in_progress": self.num_in_progress,
            "http_open_streams": self.num_open_streams,
            "http_connections": self.num_connections,
        }
        if self._role:
            self._reported_cpu_s = cpu_seconds()
            counters[series_key("process_cpu_seconds_total", self._role)] = self._reported_cpu_s - self._told_cpu_s
            gauges[series_key("process_resident_memory_bytes", self._role)] = resident_bytes()
        return ClientMetrics({key: value for key, value in counters.items() if value}, gauges)

    def on_reported(self) -> None:
        """The last report was sent."""
        self._counters.clear()
        self._durations.clear()
        self._told_cpu_s = self._reported_cpu_s


class RequestCounting:
    """One HTTP request, from its head to the end of its answer."""

    __slots__ = ("_is_stream", "_metrics")

    def __init__(self, metrics: FrontendMetrics) -> None:
        self._metrics = metrics
        self._is_stream = False
        metrics.num_in_progress += 1

    def on_headers(self, headers: Iterable[Any]) -> None:
        """The answer begins with these (pairs of bytes)."""
        if not self._is_stream and any(
            name == b"content-type" and value.startswith(_EVENT_STREAM) for name, value in headers
        ):
            self._is_stream = True
            self._metrics.num_open_streams += 1

    def end(self, scope: Scope, status: int, seconds: float) -> None:
        """The request is over; `scope` tells its route and its error."""
        self._metrics.num_in_progress -= 1
        self._metrics.num_open_streams -= self._is_stream
        method = scope["method"] if scope["method"] in _METHODS else _OTHER_METHOD
        self._metrics.observe_request(_handler_of(scope), method, status, seconds)
        if ERROR_CODE_SCOPE_KEY in scope:
            self._metrics.count("rejects_total", scope[ERROR_CODE_SCOPE_KEY])


def _handler_of(scope: Scope) -> str:
    """Path of the route that serves the request; it is also in the scope of one with a method that it does not have."""
    route = scope.get("route")
    methods = getattr(route, "methods", None)
    if methods is not None and scope["method"] not in methods:
        return NO_ROUTE
    return str(getattr(route, "path", NO_ROUTE))
