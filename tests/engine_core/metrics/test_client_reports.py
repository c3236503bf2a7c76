"""Sums of what clients report, and what they may not report."""

import pytest

from engine_core.metrics import client_reports
from engine_core.metrics.client_reports import MAX_GAUGES, MAX_VALUE, ClientReports
from ipc.errors import ProtocolError
from ipc.messages import ClientMetrics
from ipc.metric_families import FAMILIES
from ipc.metric_series import HistogramCounts, series_key

ANSWERED = series_key("http_requests_total", "/v1/models", "GET", "200")


def test_increments_of_all_clients_are_added_up():
    reports = ClientReports()
    for count in (3, 4):
        reports.add(ClientMetrics({ANSWERED: count}))
    assert reports.values([]) == {ANSWERED: 7}


def test_gauges_are_those_of_the_clients_of_now():
    reports = ClientReports()
    reports.add(ClientMetrics({ANSWERED: 1}, {"http_open_streams": 5}))
    assert reports.values([{"http_open_streams": 2}, {"http_open_streams": 1}]) == {ANSWERED: 1, "http_open_streams": 3}


def test_buckets_of_histograms_are_counters():
    histogram = HistogramCounts("http_request_duration_seconds", "/v1/models", "GET")
    histogram.observe(0.05)
    values = {}
    histogram.write_to(values)
    reports = ClientReports()
    reports.add(ClientMetrics(values))
    assert reports.values([]) == values


@pytest.mark.parametrize(
    "counters",
    [
        {"generation_tokens_total": 1},
        {"no_such_metric_total": 1},
        {ANSWERED: -1},
        {ANSWERED: float("nan")},
        {ANSWERED: float("inf")},
        {ANSWERED: MAX_VALUE + 1},
        {series_key("http_requests_total", "/v1/models"): 1},
        {series_key("rejects_total", "x" * 1000): 1},
        {series_key("http_request_duration_seconds_bucket", "/", "GET", "0.3"): 1},
        {"http_request_duration_seconds_bucket": 1},
        {"http_open_streams": 1},
    ],
)
def test_what_no_client_may_count_is_refused_as_a_whole(counters):
    reports = ClientReports()
    with pytest.raises(ProtocolError):
        reports.add(ClientMetrics({series_key("rejects_total", "a"): 1, **counters}))
    assert reports.values([]) == {}


@pytest.mark.parametrize("gauges", [{ANSWERED: 1}, {"kv_blocks": 1}])
def test_a_gauge_that_is_none_of_a_client_is_refused(gauges):
    with pytest.raises(ProtocolError):
        ClientReports().add(ClientMetrics({}, gauges))


def test_series_above_the_limit_are_left_out_and_what_is_known_still_counts(monkeypatch):
    monkeypatch.setattr(client_reports, "MAX_SAMPLES", 2)
    reports = ClientReports()
    first, second, third = (series_key("rejects_total", reason) for reason in "abc")
    assert reports.add(ClientMetrics({first: 1, second: 1, third: 1}, {"http_open_streams": 1})) == 1
    assert reports.add(ClientMetrics({first: 1, third: 1}, {"http_open_streams": 1})) == 1
    assert reports.values([]) == {first: 2, second: 1}


def test_a_histogram_has_room_for_all_its_lines_or_for_none(monkeypatch):
    num_lines = len(FAMILIES["http_request_duration_seconds"].buckets) + 3
    monkeypatch.setattr(client_reports, "MAX_SAMPLES", num_lines)
    reports = ClientReports()
    for handler, is_kept in (("/a", True), ("/b", False)):
        for seconds in (0.01, 5):
            histogram, values = HistogramCounts("http_request_duration_seconds", handler, "GET"), {}
            histogram.observe(seconds)
            histogram.write_to(values)
            assert bool(reports.add(ClientMetrics(values))) is not is_kept


def test_sums_and_gauges_stay_where_a_reply_can_hold_them():
    """A client once made every later METRICS fail: two of the largest numbers of msgpack have a sum that it has not."""
    reports = ClientReports()
    for _ in range(2):
        reports.add(ClientMetrics({ANSWERED: MAX_VALUE}, {"http_connections": MAX_VALUE}))
    gauges = [{"http_connections": MAX_VALUE}] * 2
    assert reports.values(gauges) == {ANSWERED: MAX_VALUE, "http_connections": MAX_VALUE}


def test_gauges_of_all_clients_together_are_bounded():
    gauges = [{series_key("process_resident_memory_bytes", f"role {number}"): 1} for number in range(1000)]
    assert len(ClientReports().values(gauges)) == MAX_GAUGES
