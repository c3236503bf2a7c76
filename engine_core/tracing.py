"""Spans of requests that have ended, in the trace of whoever waits for them (`Add.traceparent`).

    llm_request ── queue ── prefill ── decode        a child for each phase that the request reached

They are made from the times of the request (`request_times.py`) on a thread of its own, so that the step loop only puts
a record into a queue. Invariant: a request without a traceparent costs nothing, and none waits for its spans: what has
no room is counted. Texts and tokens are never in a span. Next: `ipc/tracing.py`, where they go.
"""

import logging
import threading
import time
from dataclasses import dataclass
from queue import Full, Queue
from typing import TYPE_CHECKING

from engine_core.request import Request
from ipc.counted_warning import CountedWarning
from ipc.messages import Finished, FinishReason, Task
from ipc.tracing import SpanExport

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

log = logging.getLogger(__name__)

MAX_ENDED_REQUESTS = 2048
"""More that wait for their spans get none."""
PROVIDER = "fast_inference"
AttributeValue = str | int | float | list[str]


@dataclass(frozen=True, slots=True)
class EndedRequest:
    """What spans are made of."""

    request: Request
    """Nobody changes it any more."""
    finished: Finished
    ended_at: float
    """On the monotonic clock."""
    ended_at_ns: int
    """The same moment on the wall clock."""

    def wall_ns(self, moment: float) -> int:
        """A moment of the monotonic clock on the wall clock, as it was when the request ended."""
        return self.ended_at_ns - int((self.ended_at - moment) * 1e9)


class RequestSpans:
    """Makes the spans of one core."""

    def __init__(self, export: SpanExport, model_name: str) -> None:
        self._provider = export.provider
        self._model_name = model_name
        self._ended: Queue[EndedRequest | None] = Queue(MAX_ENDED_REQUESTS)
        self._dropped = CountedWarning(log, "a request gets no spans")
        self._thread = threading.Thread(target=self._make_spans, name="request-spans", daemon=True)
        self._thread.start()

    def on_finished(self, request: Request, finished: Finished) -> None:
        """Have the spans made of a request that has just ended; called by the step loop."""
        if not request.traceparent:
            return
        try:
            self._ended.put_nowait(EndedRequest(request, finished, time.monotonic(), time.time_ns()))
        except Full:
            self._dropped.add("too many end at once")

    def close(self) -> None:
        """Make what is left; to send it is for `SpanExport.close`."""
        if self._thread.is_alive():  # else a bug has ended it, and nobody would make room
            self._ended.put(None)
            self._thread.join()

    def _make_spans(self) -> None:
        tracer = self._provider.get_tracer("fast_inference.engine_core")
        while (ended := self._ended.get()) is not None:
            make_spans(tracer, ended, self._model_name)


def make_spans(tracer: "Tracer", ended: EndedRequest, model_name: str) -> None:
    """The spans of one request; none where the sampler or the traceparent says so."""
    from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    request, finished = ended.request, ended.finished
    parent = TraceContextTextMapPropagator().extract({"traceparent": request.traceparent})
    begin_ns = ended.wall_ns(request.times.arrived_at)
    span = tracer.start_span("llm_request", parent, kind=SpanKind.SERVER, start_time=begin_ns)
    if span.is_recording():
        span.set_attributes(attributes_of(ended, model_name))
        if finished.reason is FinishReason.ERROR:
            span.set_status(StatusCode.ERROR, finished.error_code)
        _make_phases(tracer, ended, set_span_in_context(span, parent))
    span.end(ended.ended_at_ns)


def _make_phases(tracer: "Tracer", ended: EndedRequest, context: "Context") -> None:
    times = ended.request.times
    begins = [("queue", times.arrived_at), ("prefill", times.first_scheduled_at)]
    if times.last_token_at != times.first_token_at:  # one token needs no decoding
        begins.append(("decode", times.first_token_at))
    reached = [(name, begin) for name, begin in begins if begin is not None]
    last_end = ended.ended_at if times.first_token_at is None else times.last_token_at
    ends = [*(begin for _, begin in reached[1:]), last_end]
    for (name, begin), end in zip(reached, ends, strict=True):
        assert end is not None
        tracer.start_span(name, context, start_time=ended.wall_ns(begin)).end(ended.wall_ns(end))


def attributes_of(ended: EndedRequest, model_name: str) -> dict[str, AttributeValue]:
    """OpenTelemetry's names for generative AI, and vLLM's for latencies (seconds)."""
    request, finished, params = ended.request, ended.finished, ended.request.sampling_params
    durations = request.times.durations(ended.ended_at)
    attributes: dict[str, AttributeValue | None] = {
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": request.adapter or model_name,
        "gen_ai.response.model": model_name,
        "gen_ai.request.id": request.external_ids[-1] if request.external_ids else None,
        "gen_ai.response.finish_reasons": [finished.reason.name.lower()],
        "gen_ai.usage.input_tokens": finished.num_prompt_tokens,
        "gen_ai.usage.output_tokens": finished.num_output_tokens,
        "gen_ai.usage.cache_read.input_tokens": finished.num_cached_tokens,
        "gen_ai.latency.time_in_queue": durations.queue_s,
        "gen_ai.latency.time_to_first_token": durations.time_to_first_token_s,
        "gen_ai.latency.e2e": durations.total_s,
        "gen_ai.latency.time_in_model_prefill": durations.prefill_s,
        "gen_ai.latency.time_in_model_decode": durations.decode_s,
        "gen_ai.latency.time_in_model_inference": durations.inference_s,
        "error.type": finished.error_code or None,
        "fast_inference.num_preemptions": request.num_preemptions,
    }
    if request.task is Task.GENERATE:
        attributes |= {
            "gen_ai.request.max_tokens": params.max_tokens,
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
        }
    return {name: value for name, value in attributes.items() if value is not None}
