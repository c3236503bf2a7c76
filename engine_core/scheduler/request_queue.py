"""The waiting requests of one flow, sorted by the policy's order (`admission_order`).

Invariant: the order of a request does not change while it is in the queue. Next: `fair_queue`.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator

from engine_core.request import Request
from engine_core.scheduler.admission_order import AdmissionOrder, OrderKey


class RequestQueue:
    """A sorted list: short enough (`max_queued_requests`) that moving its items costs less than a tree."""

    def __init__(self, order: AdmissionOrder) -> None:
        self._order = order
        self._entries: list[tuple[OrderKey, Request]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Request]:
        return (request for _, request in self._entries)

    def __getitem__(self, index: int) -> Request:
        return self._entries[index][1]

    def add(self, request: Request) -> None:
        """Put a request in its place."""
        insort(self._entries, (self._order(request), request), key=_order_of)

    def remove(self, request: Request) -> None:
        """Take a request out, wherever it is."""
        index = bisect_left(self._entries, self._order(request), key=_order_of)
        assert self._entries[index][1] is request, f"request {request.key} is not where its order says"
        del self._entries[index]


def _order_of(entry: tuple[OrderKey, Request]) -> OrderKey:
    return entry[0]
