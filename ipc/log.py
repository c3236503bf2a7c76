"""One logging set-up for every process: text lines on stderr, control characters escaped."""

import logging
import sys

from ipc.config import LogConfig

_ESCAPES = {code: f"\\x{code:02x}" for code in [*range(0x20), 0x7F, *range(0x80, 0xA0)]}


class _LineFormatter(logging.Formatter):
    """One record, one line (a trace below it); what a client sent cannot forge another."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = record.message.translate(_ESCAPES)
        return super().formatMessage(record)


def configure_logging(config: LogConfig, process_name: str) -> None:
    """Send every record of this process to stderr; called once, first thing."""
    handler = logging.StreamHandler(sys.stderr)
    pattern = f"%(asctime)s %(levelname)s {process_name} %(name)s: %(message)s"
    handler.setFormatter(_LineFormatter(pattern))
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)
