"""Accepts connections from a listening socket; where all frontends share it, so that each of them gets its part.

An event loop's own server accepts whatever waits in one go, so that the first frontend to wake takes a whole burst.
Here one connection is accepted per turn of the event loop, and a frontend that has more connections than another lets
it go first: it waits `HEAD_START_S`, and takes what is still there then, so that a stopped frontend strands nothing.
A connection above `max_connections` is accepted too, and turned away (`connection_limit.py`): left in the backlog it
would wait for nothing. Used by `__main__` in place of the servers that uvicorn would make.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Collection

from frontend.connection_counts import ConnectionCounts
from frontend.connection_limit import TurnedAway

log = logging.getLogger(__name__)

HEAD_START_S = 0.002
UNSENT_BYTES = 128 * 1024
"""What the kernel takes for a client that does not read, instead of megabytes; does not slow down one that does."""
FULL_HEAD_START_S = 0.05
"""The same for a frontend that could only turn the connection away."""
_PAUSE_S = 0.5
"""After a failure such as having no descriptors left."""
_TCP_NOTSENT_LOWAT = 25
"""Of Linux; Python 3.11 has no name for it."""


class Acceptor:
    """Has the `close` and `wait_closed` of an `asyncio.Server`, which uvicorn's shutdown calls."""

    def __init__(
        self,
        listening: socket.socket,
        create_protocol: Callable[[], asyncio.Protocol],
        counts: ConnectionCounts,
        connections: Collection[object],
        max_connections: int,
    ) -> None:
        """`connections` is where protocols add themselves when their connection is made."""
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._create_protocol = create_protocol
        self._counts = counts
        self._connections = connections
        self._max_connections = max_connections
        self._turned_away = TurnedAway()
        self._set_ups: set[asyncio.Task[object]] = set()
        self._being_made: set[asyncio.Protocol] = set()
        """Those of the set-ups; some of them may be among the connections already."""
        self._is_closed = False
        listening.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Accept nothing more; connections stay."""
        if not self._is_closed:
            self._is_closed = True
            self._turned_away.close()
            self._loop.remove_reader(self._listening.fileno())

    def expire(self) -> None:
        """Let go of connections that were turned away; called several times a second."""
        self._turned_away.expire()

    async def wait_closed(self) -> None:
        """Wait until every accepted connection has its protocol."""
        await asyncio.gather(*self._set_ups, return_exceptions=True)

    @property
    def num_turned_away(self) -> int:
        """Connections above the limit so far."""
        return self._turned_away.num

    def _listen(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._listening.fileno(), self._on_readable)

    def _pause(self, seconds: float, then: Callable[[], None]) -> None:
        self._loop.remove_reader(self._listening.fileno())
        self._loop.call_later(seconds, then)

    def _on_readable(self) -> None:
        num_connections = self._num_connections()
        self._counts.publish(num_connections)
        if self._counts.is_above_another(num_connections):
            is_full = num_connections >= self._max_connections
            self._pause(FULL_HEAD_START_S if is_full else HEAD_START_S, self._accept_what_is_left)
        else:
            self._accept()

    def _accept_what_is_left(self) -> None:
        if not self._is_closed:
            self._listen()
            self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another frontend took it, or the client has gone
        except OSError as error:
            log.error("cannot accept connections for %.1f s: %s", _PAUSE_S, error.strerror)
            self._pause(_PAUSE_S, self._listen)
            return
        if self._num_connections() >= self._max_connections:
            self._turned_away.add(connection)
            return
        connection.setblocking(False)
        protocol = self._create_protocol()
        self._being_made.add(protocol)
        set_up = self._loop.create_task(self._set_up(connection, protocol))
        self._set_ups.add(set_up)
        set_up.add_done_callback(self._set_ups.discard)
        self._counts.publish(self._num_connections())

    def _num_connections(self) -> int:
        """Those that are being made too, each once."""
        return len(self._connections) + sum(protocol not in self._connections for protocol in self._being_made)

    async def _set_up(self, connection: socket.socket, protocol: asyncio.Protocol) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            await self._loop.connect_accepted_socket(lambda: protocol, connection)
        except OSError as error:
            log.debug("a connection broke at once: %s", error.strerror)
            connection.close()
        finally:
            self._being_made.discard(protocol)
