"""What a frontend counts, and that each count is reported once."""

import asyncio
from types import SimpleNamespace

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from frontend.errors import ShuttingDownError, error_response
from frontend.metrics.frontend_metrics import FrontendMetrics
from frontend.middleware import RequestContextMiddleware
from ipc.metric_series import series_key


def scope(**more) -> Scope:
    return {"type": "http", "method": "GET", "path": "/", "headers": [], **more}


async def answer(app: FastAPI, metrics: FrontendMetrics, **more) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(_: Message) -> None:
        return

    await RequestContextMiddleware(app, metrics=metrics)(scope(**more), receive, send)


def app_with(status: int = 200, content_type: bytes = b"text/plain", during=lambda: None):
    async def app(_: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", content_type)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        during()
        await send({"type": "http.response.body", "body": b""})

    return app


def test_requests_are_counted_by_route_method_and_status():
    metrics = FrontendMetrics()
    for status in (200, 200, 404):
        asyncio.run(answer(app_with(status), metrics, route=SimpleNamespace(path="/v1/models/{model_id}")))
    counters = metrics.report().counters
    assert counters[series_key("http_requests_total", "/v1/models/{model_id}", "GET", "200")] == 2
    assert counters[series_key("http_requests_total", "/v1/models/{model_id}", "GET", "404")] == 1
    buckets = [value for key, value in counters.items() if key.startswith("http_request_duration_seconds_bucket")]
    assert sum(buckets) == 3


def test_paths_and_methods_of_clients_make_no_series_of_their_own():
    metrics = FrontendMetrics()
    for number in range(5):
        asyncio.run(answer(app_with(404), metrics, path=f"/made/up/{number}", method=f"METHOD{number}"))
    assert metrics.report().counters[series_key("http_requests_total", "none", "OTHER", "404")] == 5


def test_an_error_answer_counts_as_a_refusal_with_its_code():
    metrics = FrontendMetrics()
    asyncio.run(answer(error_response(ShuttingDownError()), metrics))
    assert metrics.report().counters[series_key("rejects_total", "shutting_down")] == 1


def test_what_was_reported_is_not_reported_again():
    metrics = FrontendMetrics()
    metrics.count("rejects_total", "a")
    assert metrics.report().counters[series_key("rejects_total", "a")] == 1
    assert metrics.report().counters[series_key("rejects_total", "a")] == 1  # the first one could not be sent
    metrics.on_reported()
    assert series_key("rejects_total", "a") not in metrics.report().counters


def test_streams_are_open_from_their_headers_to_their_end():
    metrics = FrontendMetrics()
    seen = []

    def during() -> None:
        gauges = metrics.report().gauges
        seen.append((gauges["http_requests_in_progress"], gauges["http_open_streams"]))

    asyncio.run(answer(app_with(during=during), metrics))
    asyncio.run(answer(app_with(content_type=b"text/event-stream; charset=utf-8", during=during), metrics))
    assert seen == [(1, 0), (1, 1)]
    assert (metrics.num_in_progress, metrics.num_open_streams) == (0, 0)


def test_connections_that_were_turned_away_are_counted_once_each():
    metrics = FrontendMetrics()
    for num_turned_away in (0, 2, 2, 3):
        metrics.note_connections(7, num_turned_away)
    report = metrics.report()
    assert (report.counters["http_connections_refused_total"], report.gauges["http_connections"]) == (3, 7)
