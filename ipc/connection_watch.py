"""Tells what becomes of the tcp connection behind a client's socket, which libzmq mends by itself and says nothing of.

Owned by `core_link.py`, for cores on other hosts: where the process there dies, its kernel ends the connection at once,
which is the only sign of it before the lease is over. Invariant: what happened before a message came is told before it,
if `take_events` is called before messages are received.
"""

import asyncio
import struct
from collections.abc import Callable
from enum import IntEnum

import zmq

_EVENT = struct.Struct("=Hi")


class ConnectionEvent(IntEnum):
    """What a link must know, in libzmq's numbers."""

    ENDED = zmq.EVENT_DISCONNECTED
    REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH
    """The core does not know this client's key."""
    FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    """No handshake: most often the core has another key than this client thinks."""


class ConnectionWatch:
    """The connection of one DEALER, on the running event loop."""

    def __init__(self, socket: zmq.Socket[bytes], on_event: Callable[[ConnectionEvent], None]) -> None:
        """Watch from now on; `on_event` is called by the event loop and by `take_events`."""
        self._socket = socket
        self._on_event = on_event
        self._events: zmq.Socket[bytes] = socket.get_monitor_socket(sum(ConnectionEvent))
        self._fd = int(self._events.getsockopt(zmq.FD))
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self.take_events)

    def take_events(self) -> None:
        """Tell what has happened."""
        while not self._events.closed:
            try:
                event = self._events.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            self._on_event(ConnectionEvent(_EVENT.unpack(event[0])[0]))

    def close(self) -> None:
        """End the watch, before the socket is closed."""
        self._loop.remove_reader(self._fd)
        self._socket.disable_monitor()
        self._events.close(linger=0)
