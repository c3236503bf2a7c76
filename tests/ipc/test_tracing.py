"""The way of spans to a collector: where it begins, and what becomes of them where nobody takes them."""

import socket
import sys

import pytest

from ipc.config import TracingConfig
from ipc.errors import ConfigError
from ipc.tracing import SpanExport, check_packages, service_name
from tests.otlp_collector import running_collector


def make_span(export: SpanExport) -> None:
    export.provider.get_tracer("test").start_span("x").end()


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_nothing_is_traced_without_an_endpoint():
    assert SpanExport.of(TracingConfig(), "core") is None


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://h:4318/v1/traces", "http://h:4318/v1/traces"),
        ("https://h/custom", "https://h/custom"),
        ("http://h:4318", "http://h:4318/v1/traces"),
        ("http://[::1]:4318/", "http://[::1]:4318/v1/traces"),
    ],
)
def test_a_collector_takes_traces_at_the_usual_path_unless_another_is_given(given, url):
    assert TracingConfig(otlp_traces_endpoint=given).traces_url == url


@pytest.mark.parametrize(
    "given",
    [
        "",
        "localhost:4318",
        "grpc://h:4317",
        "http://",
        "http://h:0/x",
        "http://h/a b",
        "http://secret@h/",
        "http://h/?key=secret",
    ],
)
def test_what_is_no_url_or_has_a_secret_in_it_is_refused_by_the_name_of_the_flag(given):
    with pytest.raises(ConfigError, match=r"^--otlp-traces-endpoint must be like http") as refusal:
        TracingConfig(otlp_traces_endpoint=given)
    assert "secret" not in refusal.value.message


@pytest.mark.parametrize("missing", ["opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"])
def test_missing_packages_are_one_line_that_says_how_to_get_them(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=r"^--otlp-traces-endpoint .*: pip install fast-inference\[otel\]$"):
        check_packages()


def test_a_variable_that_the_sdk_refuses_is_a_wrong_setting(monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with pytest.raises(ConfigError, match=r"^--otlp-traces-endpoint: "):
        SpanExport("http://127.0.0.1:1/v1/traces", "core")


def test_spans_name_the_service_and_its_role(monkeypatch, caplog):
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    assert service_name("core") == "fast-inference-core"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    with running_collector() as collector:
        export = SpanExport(collector.url, "frontend")
        make_span(export)
        export.close()
    assert [(span.service, span.name) for span in collector.spans] == [("mine-frontend", "x")]
    assert caplog.messages == []


@pytest.mark.parametrize("status", [404, 503, None])
def test_what_a_collector_does_not_take_is_counted_in_one_warning(monkeypatch, caplog, status):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    with running_collector(status or 200) as collector:
        url = collector.url if status else f"http://127.0.0.1:{closed_port()}/v1/traces"
        export = SpanExport(url, "core")
        make_span(export)
        make_span(export)
        export.close()
    [line] = caplog.messages
    assert line.startswith(f"spans are lost: {url} does not take them (2 so far)")
