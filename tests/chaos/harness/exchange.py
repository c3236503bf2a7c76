"""Raw HTTP exchanges that can be broken off at any byte, cheap enough for hundreds at once in one process.

`ask` never raises for what the server does: an `Exchange` says how it ended. Nothing is parsed here but the framing;
`oracle.py` judges what the bytes mean. Every exchange has a connection of its own.
"""

import asyncio
import socket
import struct
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import cast

import httptools

HANG_S = 60.0
"""An exchange without an end after this time hangs."""


class Ending(Enum):
    """How an exchange ended."""

    WHOLE = "whole response"
    CUT = "cut by the client"
    CLOSED = "closed by the server before the response was whole"
    REFUSED = "connection refused"
    HUNG = "no end in time"


class CutKind(Enum):
    """How a client leaves."""

    FIN = "FIN"
    RST = "RST"
    HALF_CLOSE = "half-close"


@dataclass(frozen=True)
class Cut:
    """Leave after so many bytes of the response, or after so many seconds, whichever comes first."""

    kind: CutKind
    after_bytes: int | None = None
    after_s: float | None = None


@dataclass
class Exchange:
    """One request and what came back. Times are those of `time.monotonic`, in seconds."""

    sent_at: float
    local_port: int = 0
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    num_bytes: int = 0
    first_byte_at: float | None = None
    last_byte_at: float | None = None
    longest_silence_s: float = 0.0
    """Between two pieces of the response."""
    ended_at: float = 0.0
    ending: Ending | None = None
    """None while it is under way."""

    @property
    def seconds(self) -> float:
        """From the request to the end."""
        return self.ended_at - self.sent_at

    @property
    def is_event_stream(self) -> bool:
        """True if the response has begun, as a stream."""
        return self.headers.get("content-type", "").startswith("text/event-stream")

    def is_under_way(self, moment: float) -> bool:
        """True if it was sent before that moment and ended after it."""
        return self.sent_at <= moment and (self.ending is None or self.ended_at > moment)


class _Connection(asyncio.Protocol):
    def __init__(self, request: bytes, exchange: Exchange, cut: Cut | None) -> None:
        self.exchange = exchange
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._cut = cut
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._is_cut = False

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.exchange.local_port = transport.get_extra_info("sockname")[1]
        self._transport.write(self._request)
        if self._cut is not None and self._cut.after_s is not None:
            asyncio.get_running_loop().call_later(self._cut.after_s, self.cut)

    def data_received(self, data: bytes) -> None:
        exchange, now = self.exchange, time.monotonic()
        if exchange.last_byte_at is not None:
            exchange.longest_silence_s = max(exchange.longest_silence_s, now - exchange.last_byte_at)
        exchange.first_byte_at = exchange.first_byte_at or now
        exchange.last_byte_at = now
        exchange.num_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.end(Ending.CLOSED)
        if self._cut is not None and self._cut.after_bytes is not None and exchange.num_bytes >= self._cut.after_bytes:
            self.cut()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(Ending.CUT if self._is_cut else Ending.CLOSED)

    # --- httptools ---

    def on_header(self, name: bytes, value: bytes) -> None:
        self.exchange.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.exchange.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self.exchange.body += data

    def on_message_complete(self) -> None:
        self.end(Ending.WHOLE)

    # --- ends ---

    def cut(self) -> None:
        """Leave, unless the exchange has ended."""
        if self._cut is None or self._is_cut or self.exchange.ending is not None or self._transport is None:
            return
        self._is_cut = True
        if self._cut.kind is CutKind.HALF_CLOSE:
            self._transport.write_eof()  # and read on until the server closes
            return
        if self._cut.kind is CutKind.RST:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()
        self.end(Ending.CUT)

    def end(self, ending: Ending) -> None:
        """Settle how it ended, once."""
        if self.exchange.ending is None:
            self.exchange.ending = ending
            self.exchange.ended_at = time.monotonic()
        if not self.ended.done():
            self.ended.set_result(None)
        if self._transport is not None:
            self._transport.abort()


async def ask(
    port: int, request: bytes, *, cut: Cut | None = None, hang_s: float = HANG_S, exchange: Exchange | None = None
) -> Exchange:
    """Send a request to a port of this machine and wait for the end of the exchange."""
    exchange = exchange or Exchange(time.monotonic())
    connection: _Connection | None = None
    try:
        async with asyncio.timeout(hang_s):
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: _Connection(request, exchange, cut), "127.0.0.1", port)
            await connection.ended
    except TimeoutError:
        exchange.ending, exchange.ended_at = Ending.HUNG, time.monotonic()
    except OSError:
        exchange.ending, exchange.ended_at = Ending.REFUSED, time.monotonic()
    finally:
        if connection is not None:
            connection.end(exchange.ending or Ending.CUT)
    return exchange
