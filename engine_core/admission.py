"""How much may wait: counted where requests come in, so that a refusal never waits for a step.

The I/O thread enters each request; the step loop starts it when it is first scheduled, and ends it. A request that
could run at once does not count as waiting, although the step loop has not seen it yet: an idle core takes as many
requests as it can run, plus those that may wait.
"""

import threading

from ipc.config import SchedulerConfig
from ipc.errors import QueueFullError


class Admission:
    """Bounds of the waiting queue in requests and prompt tokens; shared by the two threads of the core."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._num_entered = 0
        """Accepted and never scheduled."""
        self._num_tokens = 0
        """Prompt tokens of those."""
        self._num_started = 0
        """Scheduled at least once, and not ended."""

    def enter(self, num_tokens: int) -> None:
        """Count a request as waiting.

        Raises:
            QueueFullError: a limit is reached; the request is not counted. A core with a free place takes any request.
        """
        with self._lock:
            num_free_places = max(0, self._config.max_num_seqs - self._num_started)
            num_waiting = max(0, self._num_entered - num_free_places)
            if self._num_entered >= num_free_places + self._config.max_queued_requests:
                raise QueueFullError(f"{num_waiting} requests are waiting, which is the limit.")
            if num_waiting and self._num_tokens + num_tokens > self._config.max_queued_tokens:
                raise QueueFullError(f"{self._num_tokens} prompt tokens are waiting, which is at the limit.")
            self._num_entered += 1
            self._num_tokens += num_tokens

    def start(self, num_tokens: int) -> None:
        """A request that was entered is scheduled for the first time."""
        with self._lock:
            self._num_entered -= 1
            self._num_tokens -= num_tokens
            self._num_started += 1

    def withdraw(self, num_tokens: int) -> None:
        """A request that was entered has ended without being scheduled."""
        with self._lock:
            self._num_entered -= 1
            self._num_tokens -= num_tokens

    def end(self) -> None:
        """A request that was started has ended."""
        with self._lock:
            self._num_started -= 1
