"""Whether a process is traced, and the way of its spans to an OpenTelemetry collector.

Off unless `--otlp-traces-endpoint` is set: then nothing of OpenTelemetry's SDK is imported. `frontend/tracing.py` and
`engine_core/tracing.py` make the spans. Invariant: who ends a span never waits for the collector; what a collector does
not take is lost, counted and told in one line a second at most. Next: `span_export.py`.
"""

import importlib.util
import os
import threading
from typing import TYPE_CHECKING

from ipc.config import TracingConfig
from ipc.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SERVICE_NAMESPACE = "fast-inference"
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_CLOSE_S = 1.0
"""How long the end of a process waits for its last spans to be taken."""


def check_packages() -> None:
    """Raise `ConfigError` where what sends spans is not installed."""
    if not all(_is_installed(name) for name in _PACKAGES):
        raise ConfigError("--otlp-traces-endpoint needs more packages: pip install fast-inference[otel]")


def service_name(role: str) -> str:
    """`fast-inference-core`, say; the part before the role is OTEL_SERVICE_NAME where that is set."""
    return f"{os.environ.get('OTEL_SERVICE_NAME') or SERVICE_NAMESPACE}-{role}"


class SpanExport:
    """The tracer provider of this process; the variables OTEL_* of the SDK hold (sampler, headers, batches, …)."""

    def __init__(self, url: str, role: str) -> None:
        """`role` is `frontend` or `core`.

        Raises:
            ConfigError: packages are missing, or a variable OTEL_* has a value that the SDK refuses.
        """
        check_packages()
        from ipc.span_export import CountingExporter, make_provider

        try:
            self._exporter = CountingExporter(url)
            self.provider: TracerProvider = make_provider(self._exporter, service_name(role))
        except ValueError as error:
            raise ConfigError(f"--otlp-traces-endpoint: {' '.join(str(error).split())}") from error

    @classmethod
    def of(cls, config: TracingConfig, role: str) -> "SpanExport | None":
        """None where nothing is traced; raises `ConfigError` as `__init__` does."""
        return None if config.traces_url is None else cls(config.traces_url, role)

    def close(self) -> None:
        """Send what is left, as far as that goes within a second; the collector may be dead."""
        closing = threading.Thread(target=self.provider.shutdown, name="last-spans", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        if closing.is_alive():
            self._exporter.give_up()


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a package around it
        return False
