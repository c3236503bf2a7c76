"""One logging set-up for every process: lines on stderr, as text or as JSON, which nothing in them can forge.

Invariant: a record is one line of JSON, or one line of text with its trace indented below; control characters are
escaped. What users wrote or were told (prompts, answers, grammars) is never logged above level debug.
`current_request_id` is what a line is about where its record does not say (`extra={"request_id": ...}`).
"""

import json
import logging
import sys
import threading
import time
from contextvars import ContextVar

from ipc.config import LogConfig

current_request_id: ContextVar[str] = ContextVar("current_request_id", default="")
"""The `X-Request-Id` that the running task serves."""

_ESCAPES = {code: f"\\x{code:02x}" for code in [*range(0x20), 0x7F, *range(0x80, 0xA0), 0x2028, 0x2029]}
_TRACE_INDENT = "    "


class TextFormatter(logging.Formatter):
    """`TIME LEVEL PROCESS LOGGER: MESSAGE [REQUEST ID]`; a trace follows in indented lines."""

    def __init__(self, process_name: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {process_name} %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line itself."""
        request_id = request_id_of(record)
        if request_id and request_id not in record.message.split():
            record.message += f" [{request_id}]"
        record.message = record.message.translate(_ESCAPES)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:
        """The trace, in which what an exception says cannot begin a line."""
        trace = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join(_TRACE_INDENT + line.translate(_ESCAPES) for line in trace.split("\n"))


class JsonFormatter(logging.Formatter):
    """One object: time, level, process, logger, message, and where there are any request_id and trace."""

    def __init__(self, process_name: str) -> None:
        super().__init__()
        self._process_name = process_name

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        values = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "process": self._process_name,
            "logger": record.name,
            "message": record.getMessage(),
        }
        request_id = request_id_of(record)
        if request_id:
            values["request_id"] = request_id
        if record.exc_info:
            values["trace"] = self.formatException(record.exc_info)
        return json.dumps(values)


def request_id_of(record: logging.LogRecord) -> str:
    """Which request a record is about; empty where none is known."""
    return str(getattr(record, "request_id", "") or current_request_id.get())


def configure_logging(config: LogConfig, process_name: str) -> None:
    """Send every record of this process to stderr, warnings and what ends a thread too; called once, first thing."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = JsonFormatter if config.log_format == "json" else TextFormatter
    handler.setFormatter(formatter(process_name))
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    threading.excepthook = _log_thread_failure


def _log_thread_failure(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is None or isinstance(failure.exc_value, SystemExit):
        return
    name = failure.thread.name if failure.thread is not None else "unknown"
    exc_info = (type(failure.exc_value), failure.exc_value, failure.exc_traceback)
    logging.getLogger("threading").error("the thread %s failed", name, exc_info=exc_info)
