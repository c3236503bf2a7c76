"""How many connections a frontend holds, and what becomes of those above.

Each is told so with a status and an end, for as little work as possible: no event loop, no parser, no task. Used by
`acceptor.py`. Invariant: a frontend can always open the files that it needs for other things.
"""

import contextlib
import logging
import resource
import socket
import time
from collections import deque

from frontend.errors import TooManyConnectionsError, closing_answer
from ipc.config import ConnectionConfig

log = logging.getLogger(__name__)

RESERVED_DESCRIPTORS = 64
"""For sockets to the core, files, pipes, and connections that are turned away."""
MAX_DEFAULT_CONNECTIONS = 16_384
_LINGER_S = 1.0
_MAX_LINGERING = 16
_READ_BYTES = 65_536


def max_connections(config: ConnectionConfig) -> int:
    """As configured, or as many as descriptors are left for; at least one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = config.max_connections or MAX_DEFAULT_CONNECTIONS
    limit = wanted if soft == resource.RLIM_INFINITY else max(1, min(soft - RESERVED_DESCRIPTORS, wanted))
    if config.max_connections and limit < config.max_connections:
        log.warning("--max-connections: the system's limit of open files allows %d, not %d", limit, wanted)
    return limit


class TurnedAway:
    """Connections that were told that there is no room; kept for a moment, so that they can read it."""

    def __init__(self) -> None:
        error = TooManyConnectionsError("The server has as many connections as it can hold.")
        self._answer = closing_answer(error)
        self.num = 0
        """All so far."""
        self._lingering: deque[tuple[socket.socket, float]] = deque()

    def add(self, connection: socket.socket) -> None:
        """Answer, and end our side; the other is closed later, or when there are too many."""
        self.num += 1
        connection.setblocking(False)
        with contextlib.suppress(OSError):  # the client has gone already
            connection.send(self._answer)
            connection.shutdown(socket.SHUT_WR)
        self._lingering.append((connection, time.monotonic() + _LINGER_S))
        self.expire()

    def expire(self) -> None:
        """Close those whose time is over."""
        now = time.monotonic()
        while self._lingering and (self._lingering[0][1] <= now or len(self._lingering) > _MAX_LINGERING):
            self._close(self._lingering.popleft()[0])

    def close(self) -> None:
        """Close all."""
        while self._lingering:
            self._close(self._lingering.popleft()[0])

    def _close(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.recv(_READ_BYTES)  # what is there unread would make the close a reset
        connection.close()
