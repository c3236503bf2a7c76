"""Spans of ended requests: their places in the trace, and what they say."""

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from engine_core import tracing
from engine_core.request_times import RequestTimes
from engine_core.tracing import EndedRequest, RequestSpans, make_spans
from ipc.messages import FinishReason, Task
from ipc.tracing import SpanExport
from tests.factories import CoreHarness, make_fake_runner, make_params, make_request
from tests.otlp_collector import running_collector

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"
WALL_NS = 1_700_000_000_000_000_000


def spans_of(request, finished, ended_at=20.0):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    make_spans(provider.get_tracer("test"), EndedRequest(request, finished, ended_at, WALL_NS), "model")
    return {span.name: span for span in exporter.get_finished_spans()}


def make_times(*token_times, scheduled_at=12.0):
    times = RequestTimes(arrived_at=10.0, first_scheduled_at=scheduled_at)
    for moment in token_times:
        times.on_token(moment)
    return times


def seconds_before_the_end(span):
    return (WALL_NS - span.start_time) / 1e9, (WALL_NS - span.end_time) / 1e9


def test_each_phase_is_a_child_of_the_request_in_the_trace_of_the_frontend():
    request = make_request(traceparent=TRACEPARENT, times=make_times(15.0, 17.0, 19.0))
    spans = spans_of(request, request.finished(FinishReason.LENGTH))
    assert {name: seconds_before_the_end(span) for name, span in spans.items()} == {
        "llm_request": (10.0, 0.0),
        "queue": (10.0, 8.0),
        "prefill": (8.0, 5.0),
        "decode": (5.0, 1.0),
    }
    root = spans.pop("llm_request")
    assert (f"{root.parent.span_id:016x}", root.parent.is_remote) == (PARENT_ID, True)
    assert {span.parent.span_id for span in spans.values()} == {root.context.span_id}
    assert {f"{span.context.trace_id:032x}" for span in (root, *spans.values())} == {TRACE_ID}


def test_the_request_says_its_usage_and_its_times():
    params = make_params(max_tokens=7, temperature=0.5, top_p=0.9)
    request = make_request(
        20,
        traceparent=TRACEPARENT,
        times=make_times(15.0, 17.0, 19.0),
        sampling_params=params,
        external_ids=("mine", "chatcmpl-1"),
        num_cached_tokens=16,
    )
    request.token_ids.extend([1, 2, 3])
    attributes = dict(spans_of(request, request.finished(FinishReason.STOP))["llm_request"].attributes)
    assert attributes == {
        "gen_ai.provider.name": "fast_inference",
        "gen_ai.request.model": "model",
        "gen_ai.response.model": "model",
        "gen_ai.request.id": "chatcmpl-1",
        "gen_ai.request.max_tokens": 7,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 16,
        "gen_ai.latency.time_in_queue": 2.0,
        "gen_ai.latency.time_to_first_token": 5.0,
        "gen_ai.latency.e2e": 10.0,
        "gen_ai.latency.time_in_model_prefill": 3.0,
        "gen_ai.latency.time_in_model_decode": 4.0,
        "gen_ai.latency.time_in_model_inference": 7.0,
        "fast_inference.num_preemptions": 0,
    }


@pytest.mark.parametrize(
    ("times", "names"),
    [
        (make_times(scheduled_at=None), {"llm_request", "queue"}),
        (make_times(), {"llm_request", "queue", "prefill"}),
        (make_times(15.0), {"llm_request", "queue", "prefill"}),
    ],
)
def test_a_phase_that_was_not_reached_has_no_span(times, names):
    request = make_request(traceparent=TRACEPARENT, times=times)
    assert set(spans_of(request, request.finished(FinishReason.ABORT))) == names


def test_a_failure_is_named_by_its_code():
    request = make_request(traceparent=TRACEPARENT, times=make_times())
    finished = request.finished(FinishReason.ERROR, error_code="timeout", error_message="what nobody needs to know")
    span = spans_of(request, finished)["llm_request"]
    assert (span.status.description, span.attributes["error.type"]) == ("timeout", "timeout")
    assert "nobody" not in span.to_json()


def test_an_embedding_has_no_sampling():
    request = make_request(traceparent=TRACEPARENT, times=make_times(), task=Task.EMBED)
    attributes = spans_of(request, request.finished(FinishReason.STOP))["llm_request"].attributes
    assert not any(name.startswith("gen_ai.request.t") for name in attributes)


def test_what_the_client_does_not_sample_has_no_spans():
    request = make_request(traceparent=TRACEPARENT.removesuffix("1") + "0", times=make_times(15.0, 16.0))
    assert spans_of(request, request.finished(FinishReason.STOP)) == {}


def test_a_core_has_spans_made_of_requests_with_a_parent_and_of_no_others(tmp_path):
    with running_collector() as collector:
        export = SpanExport(collector.url, "core")
        spans = RequestSpans(export, "fake")
        harness = CoreHarness(make_fake_runner(tmp_path), on_finished=spans.on_finished)
        harness.add([1, 2, 3], max_tokens=3, traceparent=TRACEPARENT)
        harness.add([4, 5, 6], max_tokens=3)
        harness.run()
        spans.close()
        export.close()
    assert sorted(span.name for span in collector.spans) == ["decode", "llm_request", "prefill", "queue"]


def test_requests_that_end_faster_than_spans_are_made_are_counted(monkeypatch, caplog):
    monkeypatch.setattr(tracing, "MAX_ENDED_REQUESTS", 1)
    with running_collector() as collector:
        export = SpanExport(collector.url, "core")
        spans = RequestSpans(export, "fake")
        spans.close()  # nobody takes anything out any more
        request = make_request(traceparent=TRACEPARENT, times=make_times(15.0))
        for _ in range(3):
            spans.on_finished(request, request.finished(FinishReason.STOP))
        export.close()
    assert caplog.messages == ["a request gets no spans: too many end at once"]
