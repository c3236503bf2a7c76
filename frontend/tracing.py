"""The spans of a frontend: FastAPI's own for each HTTP request, and one in it for what the engine is asked for.

    POST /v1/chat/completions ── chat MODEL ──▶ llm_request …     the last one is the core's (`engine_core/tracing.py`)

FastAPI honours the `traceparent` of the client and makes no span per chunk; `AnswerSpan` is ours, and its own
traceparent goes with the ADD. Invariant: prompts and answers are never in a span; without `--otlp-traces-endpoint`
there is none. One `Tracing` in each `FrontendState`. Next: `ipc/tracing.py`.
"""

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from starlette._utils import get_route_path
from starlette.types import Scope

from ipc.config import TracingConfig
from ipc.tracing import SpanExport

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig
    from opentelemetry.trace import Span

    from frontend.generation import Answer

MAX_TRACED_ANSWERS = 16
"""Of one HTTP request; the core makes spans for its first ones only."""
PROVIDER = "fast_inference"
CANCELLED = "cancelled"
"""`error.type` of what ended before its answers, such as by a client that left."""
_PROBES = frozenset({"/health", "/health/live", "/ping", "/version", "/load", "/metrics"})


class AnswerSpan:
    """The span of all answers to one request, or of its vectors; it does nothing where nothing is traced."""

    def __init__(self, span: "Span | None" = None, answers_per_prompt: int = 1) -> None:
        self._span = span
        self._answers_per_prompt = answers_per_prompt

    @property
    def traceparent(self) -> str:
        """W3C's header that makes the core's spans children of this one; empty where it is not sampled."""
        if self._span is None:
            return ""
        context = self._span.get_span_context()
        if not context.trace_flags.sampled:
            return ""
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    @contextmanager
    def ended_on_error(self) -> Generator[None, None, None]:
        """Where what is done inside raises, the span ends with it."""
        try:
            yield
        except BaseException as error:
            self.end((), error)
            raise

    def end(self, answers: "Sequence[Answer]", error: BaseException | None = None) -> None:
        """All is over; later calls do nothing. Without an error, answers that are not finished were cancelled."""
        if self._span is None:
            return
        if answers:
            self._span.set_attributes(self._usage(answers))
            cores = dict.fromkeys(name for answer in answers for name in answer.core_names)
            self._span.set_attribute("fast_inference.cores", [*cores])
        if reasons := [answer.finish.reason for answer in answers if answer.finish is not None]:
            self._span.set_attribute("gen_ai.response.finish_reasons", reasons)
        self._end(error, is_cancelled=len(reasons) < max(1, len(answers)))

    def end_vectors(self, num_tokens: int) -> None:
        """The same for vectors of so many tokens, all of which were made."""
        if self._span is not None:
            self._span.set_attribute("gen_ai.usage.input_tokens", num_tokens)
            self._end(None, is_cancelled=False)

    def _end(self, error: BaseException | None, *, is_cancelled: bool) -> None:
        from opentelemetry.trace import StatusCode

        span, self._span = self._span, None
        assert span is not None
        if error is not None and not isinstance(error, asyncio.CancelledError):
            error_type = getattr(error, "code", None) or type(error).__name__
            span.set_attribute("error.type", error_type)
            span.set_status(StatusCode.ERROR, error_type)
        elif is_cancelled:
            span.set_attribute("error.type", CANCELLED)
        span.end()

    def _usage(self, answers: "Sequence[Answer]") -> dict[str, int]:
        """A prompt counts once for its answers."""
        first_answers = answers[:: self._answers_per_prompt]
        return {
            "gen_ai.usage.input_tokens": sum(answer.num_prompt_tokens for answer in first_answers),
            "gen_ai.usage.output_tokens": sum(answer.num_output_tokens for answer in answers),
            "gen_ai.usage.cache_read.input_tokens": sum(answer.num_cached_tokens for answer in first_answers),
        }


class Tracing:
    """Makes the spans of one frontend."""

    def __init__(self, export: SpanExport | None = None) -> None:
        """Without an export nothing is traced."""
        self._export = export

    @classmethod
    def of(cls, config: TracingConfig) -> "Tracing":
        """As the settings say; raises `ConfigError` where packages for it are missing."""
        return cls(SpanExport.of(config, "frontend"))

    @property
    def is_on(self) -> bool:
        """True where spans are made."""
        return self._export is not None

    @property
    def telemetry(self) -> "TelemetryConfig | None":
        """What FastAPI is to do; None leaves it to a provider that a program around us may have set."""
        if self._export is None:
            return None
        return {
            "tracer_provider": self._export.provider,
            "tracing": True,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": _is_probe,
        }

    def begin(self, operation: str, model: str, attributes: dict[str, Any], answers_per_prompt: int = 1) -> AnswerSpan:
        """Begin a span inside the one of the HTTP request; attributes that are None are left out."""
        if self._export is None:
            return AnswerSpan()
        from opentelemetry.trace import SpanKind

        known = {name: value for name, value in attributes.items() if value is not None}
        span = self._export.provider.get_tracer("fast_inference.frontend").start_span(
            f"{operation} {model}",
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": PROVIDER,
                "gen_ai.request.model": model,
                **known,
            },
        )
        return AnswerSpan(span, answers_per_prompt)

    def close(self) -> None:
        """Send what is left; takes a second at most."""
        if self._export is not None:
            self._export.close()


def _is_probe(scope: Scope) -> bool:
    return scope["type"] == "http" and get_route_path(scope) in _PROBES
