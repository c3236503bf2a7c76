"""Lets log lines of the core name requests as their users do.

The core and the runner know requests by keys of their own (`extra={"request_key": key}`); this filter on the log's
handlers adds the name that a frontend gave, its `X-Request-Id`. Made by `process.py`.
"""

import logging
from collections.abc import Callable

from engine_core.outputs import RequestKey


class RequestNames(logging.Filter):
    """Adds `request_id` to records about a request; lets all pass."""

    def __init__(self, name_of: Callable[[RequestKey], str]) -> None:
        super().__init__()
        self._name_of = name_of

    def filter(self, record: logging.LogRecord) -> bool:
        """Called for each record, on the thread that logs."""
        key = getattr(record, "request_key", None)
        if key is not None and not hasattr(record, "request_id"):
            record.request_id = self._name_of(key)
        return True

    def install(self) -> None:
        """On every handler of the process."""
        for handler in logging.getLogger().handlers:
            handler.addFilter(self)
