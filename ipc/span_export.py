"""OpenTelemetry's exporter and provider as this server uses them; imported only where spans are sent (`tracing.py`).

Spans are sent by a thread of the SDK's `BatchSpanProcessor`, which drops what it has no room for.
"""

import logging
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from ipc.counted_warning import CountedWarning
from ipc.version import __version__

log = logging.getLogger(__name__)

_EXPORTER_LOGGER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
_MAX_REASON_CHARS = 200
_LOGGERS_OF_HEADERS = ("opentelemetry.baggage", "opentelemetry.trace")
"""They warn of each member of `baggage` and `tracestate` that is none, and quote it: lines for any client to write."""


class CountingExporter(SpanExporter):
    """Sends batches of spans, and counts those that are lost."""

    def __init__(self, url: str) -> None:
        self._num_lost_spans = 0
        self._url = url
        self._exporter = OTLPSpanExporter(endpoint=url)
        self._said = _LastWords()
        logging.getLogger(_EXPORTER_LOGGER).addFilter(self._said)
        self._lost = CountedWarning(log, "spans are lost")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch, for as long as OTEL_EXPORTER_OTLP_TIMEOUT says; called by the processor's thread."""
        self._said.first = ""
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._num_lost_spans += len(spans)
            reason = f": {self._said.first[:_MAX_REASON_CHARS]}" if self._said.first else ""
            self._lost.add(f"{self._url} does not take them ({self._num_lost_spans} so far){reason}")
        return result

    def shutdown(self) -> None:
        """Called by the processor when all is sent."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]
        logging.getLogger(_EXPORTER_LOGGER).removeFilter(self._said)

    def give_up(self) -> None:
        """End the waiting of a batch that nobody takes; from another thread."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class _LastWords(logging.Filter):
    """Keeps the exporter's own lines out of the log, and the first one of each batch as the reason of its failure."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ""

    def filter(self, record: logging.LogRecord) -> bool:
        """No line passes."""
        self.first = self.first or record.getMessage()
        return False


def make_provider(exporter: SpanExporter, service: str) -> TracerProvider:
    """A provider of this process alone; not the global one, and not ended by the interpreter's end.

    Raises:
        ValueError: a variable OTEL_* cannot be used.
    """
    for name in _LOGGERS_OF_HEADERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    resource = Resource.create({SERVICE_NAME: service, SERVICE_VERSION: __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
