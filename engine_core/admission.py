"""How much may wait: counted where requests come in, so that a refusal never waits for a step.

The I/O thread enters each request; the step loop lets it leave when it is first scheduled or ends unscheduled.
Invariant: the counts are those of requests that are accepted and were never scheduled.
"""

import threading

from ipc.config import SchedulerConfig
from ipc.errors import QueueFullError


class Admission:
    """Bounds of the waiting queue in requests and prompt tokens; shared by the two threads of the core."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._num_requests = 0
        self._num_tokens = 0

    def enter(self, num_tokens: int) -> None:
        """Count a request as waiting.

        Raises:
            QueueFullError: a limit is reached; the request is not counted. An empty queue takes any one request.
        """
        with self._lock:
            if self._num_requests >= self._config.max_queued_requests:
                raise QueueFullError(f"{self._num_requests} requests are waiting, which is the limit.")
            if self._num_requests and self._num_tokens + num_tokens > self._config.max_queued_tokens:
                raise QueueFullError(f"{self._num_tokens} prompt tokens are waiting, which is at the limit.")
            self._num_requests += 1
            self._num_tokens += num_tokens

    def leave(self, num_tokens: int) -> None:
        """The request runs, or has ended."""
        with self._lock:
            self._num_requests -= 1
            self._num_tokens -= num_tokens
