"""A warning that comes once a second at most, and a count of everything that it is about.

For what others may do as often as they like, such as sending junk: it must not fill the disk, nor slow the thread that
sees it. Invariant: each occasion counts, and the lines together tell them all.
"""

import logging
import time

_INTERVAL_S = 1.0


class CountedWarning:
    """One kind of warning; used from one thread, its count read from any."""

    def __init__(self, log: logging.Logger, text: str) -> None:
        """`text` says what happened, such as "dropped a message"."""
        self.num = 0
        """How often it happened."""
        self._log = log
        self._text = text
        self._next_line_at = 0.0
        self._num_untold = 0
        self._last_reason = ""

    def add(self, reason: str, *, has_trace: bool = False) -> None:
        """It happened; `has_trace`: the exception that is being handled is a bug of ours, and shown with the line."""
        self.num += 1
        now = time.monotonic()
        if now < self._next_line_at:
            self._num_untold += 1
            self._last_reason = reason
            return
        self.tell_rest()
        self._next_line_at = now + _INTERVAL_S
        self._log.warning("%s: %s", self._text, reason, exc_info=has_trace)

    def tell_rest(self) -> None:
        """Log how often it happened since the last line, if that was a second ago."""
        if self._num_untold and time.monotonic() >= self._next_line_at:
            self._log.warning("%s: %d more times, the last: %s", self._text, self._num_untold, self._last_reason)
            self._num_untold = 0
