"""The way to one client: what uvicorn writes to and closes, with three things that a bare transport lacks.

A client that reads nothing is noticed (`SendWatch`), and can be reset. A close while the client still sends first lets
it read the answer: a bare close would reset the connection and take the answer with it (RFC 9112, section 9.6).
Made by `http_protocol.py`; the sockets were set up by `acceptor.py`. Invariant: after `close` nothing is written.
"""

import asyncio
import logging
import socket
import struct
import time
from typing import Any, Protocol

log = logging.getLogger(__name__)

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER, on, for 0 s."""
_LOOKS_PER_TIMEOUT = 30
"""A look at ten thousand clients takes a frontend 30 ms."""
_TCP_INFO_BYTES = 128
_BYTES_ACKED = struct.Struct("=120xQ")
"""In Linux' `struct tcp_info`."""


class ClosingConnection(Protocol):
    """The protocol of a transport."""

    @property
    def is_receiving(self) -> bool:
        """True while the client has not sent all that it began."""

    def on_lingering(self) -> None:
        """Our side is closed; the other is to follow."""


class SendWatch:
    """Resets clients that take not a single byte for `timeout_s` while something waits to be sent; 0 for never."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._next_look_at = 0.0
        self._stalls: dict[ClientTransport, tuple[int, float]] = {}
        """Bytes that the client had acknowledged, and since when they are this many."""

    def add(self, transport: "ClientTransport") -> None:
        """Something waits to be sent."""
        if self._timeout_s and transport not in self._stalls:
            self._stalls[transport] = (transport.num_acknowledged_bytes, time.monotonic())

    def discard(self, transport: "ClientTransport") -> None:
        """The connection is gone."""
        self._stalls.pop(transport, None)

    def expire(self, max_num: int) -> bool:
        """Reset those whose time is over, but not more than so many; True if that was not all.

        It may be called as often as one likes.
        """
        now = time.monotonic()
        if now < self._next_look_at:
            return False
        for transport, (num_bytes, since) in list(self._stalls.items()):
            if not transport.get_write_buffer_size():
                del self._stalls[transport]
            elif transport.num_acknowledged_bytes != num_bytes:
                self._stalls[transport] = (transport.num_acknowledged_bytes, now)
            elif now - since >= self._timeout_s:
                if not max_num:
                    return True
                max_num -= 1
                del self._stalls[transport]
                log.info("reset a connection: its client took nothing for %.0f s", now - since)
                transport.reset()
        self._next_look_at = now + self._timeout_s / _LOOKS_PER_TIMEOUT
        return False


class ClientTransport(asyncio.Transport):
    """Wraps the event loop's transport."""

    __slots__ = ("_connection", "_is_closing", "_sends", "_transport")

    def __init__(self, transport: asyncio.Transport, connection: ClosingConnection, sends: SendWatch) -> None:
        self._transport = transport
        self._connection = connection
        self._sends = sends
        self._is_closing = False

    @property
    def num_acknowledged_bytes(self) -> int:
        """That the client's side has received."""
        connection: socket.socket = self._transport.get_extra_info("socket")
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        return int(_BYTES_ACKED.unpack(info)[0])

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, now or when there is room."""
        if self._is_closing:
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size():
            self._sends.add(self)

    def close(self) -> None:
        """Send what was written, then end; a client that still sends gets time to read it."""
        if self.is_closing():
            return
        self._is_closing = True
        if self._connection.is_receiving:
            self._transport.resume_reading()
            self._transport.write_eof()
            self._connection.on_lingering()
        else:
            self._transport.close()

    def reset(self) -> None:
        """End at once, in the kernel too, whatever was not sent."""
        connection: socket.socket = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.abort()

    def abort(self) -> None:
        """End at once; what was not sent is lost."""
        self._is_closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        """True once either side has ended it."""
        return self._is_closing or self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Addresses and the socket."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Take nothing more from the client."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take what comes."""
        self._transport.resume_reading()
