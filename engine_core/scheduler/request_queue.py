"""The waiting requests, in the order in which they should be admitted: priority (lower first), then arrival.

A preempted request keeps its place by arrival, so it comes before those that never ran.
"""

from bisect import insort

from engine_core.request import Request


def _order(request: Request) -> tuple[int, int]:
    return (request.priority, request.key)


class RequestQueue:
    """A sorted list: short enough (`max_queued_requests`) that moving its items costs less than a tree."""

    def __init__(self) -> None:
        self._requests: list[Request] = []
        self.num_tokens = 0
        """Known tokens of all waiting requests."""

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        """Put a request in its place."""
        insort(self._requests, request, key=_order)
        self.num_tokens += request.num_tokens

    def remove(self, request: Request) -> None:
        """Take a request out, wherever it is."""
        self._requests.remove(request)
        self.num_tokens -= request.num_tokens

    def first(self, count: int) -> list[Request]:
        """The next requests to admit, at most `count`."""
        return self._requests[:count]
