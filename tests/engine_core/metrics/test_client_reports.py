"""Sums of what clients report, and what they may not report."""

import pytest

from engine_core.metrics import client_reports
from engine_core.metrics.client_reports import ClientReports
from ipc.errors import ProtocolError
from ipc.messages import ClientMetrics
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


def test_the_number_of_series_is_bounded(monkeypatch):
    monkeypatch.setattr(client_reports, "MAX_SERIES", 2)
    reports = ClientReports()
    for reason in "ab":
        reports.add(ClientMetrics({series_key("rejects_total", reason): 1}))
    with pytest.raises(ProtocolError):
        reports.add(ClientMetrics({series_key("rejects_total", "c"): 1}))
    reports.add(ClientMetrics({series_key("rejects_total", "a"): 1}))  # a known one still counts
