"""Until when a connection may keep us waiting: for a head, for a body, for its next request, for its end.

`http_protocol.py` says what each connection waits for; `__main__` calls `expire` ten times a second, and more often
while many are over, so that closing them delays nobody. A timeout is the same for all connections, so those that began
first are over first: a queue for each kind of waiting, where starting, stopping and looking for what is over take the
same time with 10,000 connections as with one. Invariants: a connection waits for one thing at a time, and a deadline
once set is never moved; at its end the connection may begin another one.
"""

import enum
import time
from collections.abc import Mapping
from typing import Protocol


class Waiting(enum.Enum):
    """What a connection waits for."""

    HEAD = enum.auto()
    """The whole head of a request."""
    BODY = enum.auto()
    """The rest of a body."""
    REQUEST = enum.auto()
    """The first byte of the next request."""
    CLOSE = enum.auto()
    """That the client reads the last answer and closes."""


class WaitingConnection(Protocol):
    """Who is told that time is over."""

    def on_deadline(self, waiting: Waiting) -> None:
        """Called once; the connection waits for nothing then."""


class Deadlines:
    """Those of all connections of a process. A timeout of 0 is no limit."""

    def __init__(self, timeouts_s: Mapping[Waiting, float]) -> None:
        self._timeouts_s = timeouts_s
        self._queues: dict[Waiting, dict[WaitingConnection, float]] = {waiting: {} for waiting in Waiting}

    def change(self, connection: WaitingConnection, before: Waiting | None, after: Waiting | None) -> None:
        """A connection waits for something else, or for nothing, from now on."""
        if before is not None:
            self._queues[before].pop(connection, None)
        if after is not None and (timeout_s := self._timeouts_s[after]):
            self._queues[after][connection] = time.monotonic() + timeout_s

    def expire(self, max_num: int) -> bool:
        """Tell those whose time is over, but not more than so many; True if that was not all."""
        now = time.monotonic()
        for waiting, queue in self._queues.items():
            while queue:
                connection, deadline = next(iter(queue.items()))
                if deadline > now:
                    break
                if not max_num:
                    return True
                max_num -= 1
                del queue[connection]
                connection.on_deadline(waiting)
        return False
