"""Times after which requests fail: before they begin to run, and before they end.

Owned by `core.EngineCore`, which asks before each step. A heap with lazy removal: entries of requests that ended
meanwhile stay until their time comes, or until they are the most of the heap.
"""

import heapq
import math

from engine_core.outputs import RequestKey
from engine_core.request import Request

_MAX_ENDED = 256


class Deadlines:
    """Both deadlines of all requests that have any."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, RequestKey]] = []
        self._live: set[RequestKey] = set()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, request: Request) -> None:
        """Watch the deadlines of a request."""
        for deadline in {request.queue_deadline, request.deadline} - {math.inf}:
            heapq.heappush(self._heap, (deadline, request.key))
            self._live.add(request.key)

    def remove(self, request: Request) -> None:
        """The request has ended."""
        self._live.discard(request.key)
        if len(self._heap) > 4 * len(self._live) + _MAX_ENDED:  # mostly requests that ended long before their time
            self._heap = [entry for entry in self._heap if entry[1] in self._live]
            heapq.heapify(self._heap)

    def pop_due(self, now: float) -> list[RequestKey]:
        """Requests of which some deadline has passed; they may have begun to run in time."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            key = heapq.heappop(self._heap)[1]
            if key in self._live:
                due.append(key)
        return due
