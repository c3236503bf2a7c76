"""How much may wait: counted where requests come in, so that a refusal never waits for a step.

The I/O thread enters each request; the step loop starts it when it is first scheduled, and ends it. A request that
could run at once does not count against the limit of requests, although the step loop has not seen it yet: an idle
core takes as many requests as it can run, plus those that may wait. The limit of tokens counts all that has not begun.
What clients hear of the queue comes from here too, so it is right while a long step runs; they hear at once when the
queue becomes full, and when it no longer is.
Invariant: whoever entered a request starts or withdraws it once, and ends it once if it was started.
Next: `io_thread.py` publishes `occupancy`, `frontend/state.py` goes by it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from ipc.config import SchedulerConfig
from ipc.errors import QueueFullError
from ipc.messages import Load

_MIN_RETRY_S, _MAX_RETRY_S = 1.0, 60.0
_RATE_WINDOW = 64
"""Ends of requests that the rate is taken from."""


class Admission:
    """Bounds of the waiting queue in requests and prompt tokens; shared by the two threads of the core."""

    def __init__(self, config: SchedulerConfig, on_full_changed: Callable[[], None] = lambda: None) -> None:
        """`on_full_changed` is called, on either thread, when the queue has become full or is full no longer."""
        self._config = config
        self._on_full_changed = on_full_changed
        self._lock = threading.Lock()
        self._num_waiting = 0
        """Accepted and never scheduled."""
        self._num_tokens = 0
        """Prompt tokens of those."""
        self._num_started = 0
        """Scheduled at least once, and not ended."""
        self._was_full = False
        self._ended_at: deque[float] = deque(maxlen=_RATE_WINDOW)
        """On the monotonic clock: requests that ended while others waited."""

    @property
    def is_full(self) -> bool:
        """True while a request of one token would be refused."""
        with self._lock:
            return self._refusal(1) is not None

    def occupancy(self, load: Load) -> Load:
        """`load` with what is known here: requests that run and wait, and when to try again if no more may wait."""
        with self._lock:
            return replace(
                load,
                num_running=self._num_started,
                num_waiting=self._num_waiting,
                num_queued_tokens=self._num_tokens,
                retry_after_ms=int(self._retry_after_s() * 1000) if self._refusal(1) else 0,
            )

    def enter(self, num_tokens: int) -> None:
        """Count a request as waiting.

        Raises:
            QueueFullError: a limit is reached; the request is not counted. A core with a free place takes any request.
        """
        with self._lock:
            refusal = self._refusal(num_tokens)
            if refusal is not None:
                raise QueueFullError(refusal, retry_after_s=self._retry_after_s())
            if self._num_waiting == 0:
                self._ended_at.clear()  # before this, the rate was that of arrivals
            self._num_waiting += 1
            self._num_tokens += num_tokens
        self._tell_if_full_changed()

    def start(self, num_tokens: int) -> None:
        """A request that was entered is scheduled for the first time."""
        with self._lock:
            self._num_waiting -= 1
            self._num_tokens -= num_tokens
            self._num_started += 1
        self._tell_if_full_changed()

    def withdraw(self, num_tokens: int) -> None:
        """A request that was entered has ended without being scheduled."""
        with self._lock:
            self._num_waiting -= 1
            self._num_tokens -= num_tokens
        self._tell_if_full_changed()

    def end(self) -> None:
        """A request that was started has ended."""
        with self._lock:
            self._num_started -= 1
            self._ended_at.append(time.monotonic())
        self._tell_if_full_changed()

    def _tell_if_full_changed(self) -> None:
        with self._lock:
            is_full = self._refusal(1) is not None
            if is_full == self._was_full:
                return
            self._was_full = is_full
        self._on_full_changed()

    def _refusal(self, num_tokens: int) -> str | None:
        """Why a request with so many prompt tokens may not wait; None if it may."""
        num_free_places = max(0, self._config.max_num_seqs - self._num_started)
        if self._num_waiting >= num_free_places + self._config.max_queued_requests:
            return f"{self._num_waiting - num_free_places} requests are waiting, which is the limit."
        if self._num_waiting > num_free_places and self._num_tokens + num_tokens > self._config.max_queued_tokens:
            return f"{self._num_tokens} prompt tokens are waiting, which is at the limit."
        return None

    def _retry_after_s(self) -> float:
        """Until half of the queue is gone, as fast as requests ended lately.

        One place is free much earlier, but everybody who was refused comes back for it.
        """
        if len(self._ended_at) < 2:
            return _MIN_RETRY_S
        seconds_per_request = (time.monotonic() - self._ended_at[0]) / len(self._ended_at)
        return min(max(self._num_waiting / 2 * seconds_per_request, _MIN_RETRY_S), _MAX_RETRY_S)
