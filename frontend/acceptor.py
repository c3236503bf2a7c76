"""Accepts connections from the listening socket that all frontends share, so that each of them gets its part.

An event loop's own server accepts whatever waits in one go, so that the first frontend to wake takes a whole burst.
Here one connection is accepted per turn of the event loop: while one frontend sets a connection up, another takes the
next. Used by `__main__` in place of the servers that uvicorn would make.
"""

import asyncio
import logging
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)

_PAUSE_S = 0.5
"""After a failure such as having no descriptors left."""


class Acceptor:
    """Has the `close` and `wait_closed` of an `asyncio.Server`, which uvicorn's shutdown calls."""

    def __init__(self, listening: socket.socket, create_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._create_protocol = create_protocol
        self._set_ups: set[asyncio.Task[object]] = set()
        self._is_closed = False
        listening.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Accept nothing more; connections stay."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._listening.fileno())

    async def wait_closed(self) -> None:
        """Wait until every accepted connection has its protocol."""
        await asyncio.gather(*self._set_ups, return_exceptions=True)

    def _resume(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another frontend was quicker, or the client has gone
        except OSError as error:
            log.error("cannot accept connections for %.1f s: %s", _PAUSE_S, error.strerror)
            self._loop.remove_reader(self._listening.fileno())
            self._loop.call_later(_PAUSE_S, self._resume)
            return
        connection.setblocking(False)
        set_up = self._loop.create_task(self._set_up(connection))
        self._set_ups.add(set_up)
        set_up.add_done_callback(self._set_ups.discard)

    async def _set_up(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._create_protocol, connection)
        except OSError as error:
            log.debug("a connection broke at once: %s", error.strerror)
            connection.close()
