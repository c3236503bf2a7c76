"""Times after which requests fail: before they begin to run, and before they end.

Owned by `core.EngineCore`, which asks before each step. A heap with lazy removal: requests that ended meanwhile are
dropped when their time comes, so nothing is done for requests that keep their time.
"""

import heapq
import math

from engine_core.outputs import RequestKey
from engine_core.request import Request


class Deadlines:
    """Both deadlines of all requests that have any."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, RequestKey]] = []

    def add(self, request: Request) -> None:
        """Watch the deadlines of a request."""
        for deadline in {request.queue_deadline, request.deadline} - {math.inf}:
            heapq.heappush(self._heap, (deadline, request.key))

    def pop_due(self, now: float) -> list[RequestKey]:
        """Requests of which some deadline has passed; they may have ended, or have begun to run in time."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[1])
        return due
