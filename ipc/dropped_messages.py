"""Counts what could not be understood, and tells the log about it once a second at most.

One for each end of a connection to the core: whoever sends junk must not fill the disk, nor slow the thread that
reads it. Invariant: each message counts, logged or not, and the lines together tell all that were counted.
"""

import logging
import time

_INTERVAL_S = 1.0


class DroppedMessages:
    """The counter of one receiver; used from one thread, read from any."""

    def __init__(self, log: logging.Logger) -> None:
        self.num = 0
        """All that were dropped."""
        self._log = log
        self._next_line_at = 0.0
        self._num_untold = 0
        self._last_reason = ""

    def add(self, reason: str, *, has_trace: bool = False) -> None:
        """One more; `has_trace`: the exception that is being handled is a bug of ours and is shown with the line."""
        self.num += 1
        now = time.monotonic()
        if now < self._next_line_at:
            self._num_untold += 1
            self._last_reason = reason
            return
        self.tell_rest()
        self._next_line_at = now + _INTERVAL_S
        self._log.warning("dropped a message: %s", reason, exc_info=has_trace)

    def tell_rest(self) -> None:
        """Log how many were not logged one by one, if a second has passed since the last line."""
        if self._num_untold and time.monotonic() >= self._next_line_at:
            self._log.warning("dropped %d more messages, the last: %s", self._num_untold, self._last_reason)
            self._num_untold = 0
