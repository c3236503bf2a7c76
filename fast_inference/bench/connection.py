"""HTTP/1.1 as a load generator needs it: a request goes out, and the body comes back in pieces with their times.

Used by `load.py` and `target.py`. Nothing is decoded here, so that a streamed token costs little: httptools splits off
the framing, and the body is appended to one buffer. Invariants: an exchange never raises but for cancellation; it ends
with a whole response or with a `failure`. A request is sent again only where a kept connection was closed before a
single byte of the response, which says that the server had given up the connection, not that it refused the request.
Next: `answer.py`.
"""

import asyncio
import time
from array import array
from dataclasses import dataclass, field
from typing import cast

import httptools


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed: `reason` is the same for all of a kind, `detail` is what the server or the system said."""

    reason: str
    detail: str = ""

    @property
    def text(self) -> str:
        """Both, for people."""
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass(slots=True)
class Exchange:
    """One request and its response. Times are those of `time.perf_counter`, in seconds."""

    sent_at: float
    """Before the connection is made, where a new one is needed."""
    status: int = 0
    body: bytearray = field(default_factory=bytearray)
    piece_ends: "array[int]" = field(default_factory=lambda: array("q"))
    """`[num_pieces]`: length of the body when that piece had arrived."""
    piece_times: "array[float]" = field(default_factory=lambda: array("d"))
    """`[num_pieces]`: when it arrived."""
    retry_after_s: float | None = None
    """What a refusal advises, in whole seconds."""
    failure: Failure | None = None


class ConnectionLostError(Exception):
    """The server closed the connection, or broke the protocol, before the response was complete."""

    def __init__(self, failure: Failure, *, is_unanswered: bool) -> None:
        super().__init__(failure.reason)
        self.failure = failure
        self.is_unanswered = is_unanswered


class Connection(asyncio.Protocol):
    """One connection, which carries one exchange at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._answered: asyncio.Future[None] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._is_reusable = False
        self._keeps_alive = False
        self._has_length = False
        self._has_begun = False
        self._now = 0.0

    @property
    def is_reusable(self) -> bool:
        """True if the last response is whole and another request may be sent, as far as the server has said."""
        return self._is_reusable and self._transport is not None and not self._transport.is_closing()

    async def send(self, request: bytes, exchange: Exchange) -> None:
        """Send a request and fill the exchange with the whole response.

        Raises:
            ConnectionLostError: there will be no whole response.
        """
        assert self._transport is not None
        self._exchange = exchange
        self._parser = httptools.HttpResponseParser(self)
        self._has_length = self._has_begun = self._keeps_alive = self._is_reusable = False
        self._answered = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self._fail(Failure("connection closed"))
        else:
            self._transport.write(request)
        await self._answered

    def close(self) -> None:
        """Disconnect."""
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Note the time, once for all that is in it."""
        self._now = time.perf_counter()
        self._has_begun = True
        if self._parser is None:
            return self.close()  # nobody asked
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(Failure("not HTTP", str(error)))
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of a response that has no other end, or a failure."""
        if self._exchange is not None and self._exchange.status and not self._has_length and exc is None:
            return self.on_message_complete()
        self._fail(Failure("connection closed", "" if exc is None else str(exc)))

    # --- httptools ---

    def on_header(self, name: bytes, value: bytes) -> None:
        """See whether the response says where it ends, and when to come again."""
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._has_length = True
        elif name == b"retry-after" and self._exchange is not None and value.isdigit():
            self._exchange.retry_after_s = float(value)

    def on_headers_complete(self) -> None:
        """The status is known."""
        assert self._exchange is not None
        assert self._parser is not None
        self._exchange.status = self._parser.get_status_code()
        self._keeps_alive = self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        """Keep a piece."""
        exchange = self._exchange
        assert exchange is not None
        exchange.body += data
        exchange.piece_ends.append(len(exchange.body))
        exchange.piece_times.append(self._now)

    def on_message_complete(self) -> None:
        """The response is whole."""
        self._is_reusable = self._keeps_alive
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)
        self._exchange = self._parser = None

    def _fail(self, failure: Failure) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ConnectionLostError(failure, is_unanswered=not self._has_begun))
        self._exchange = self._parser = None


class Client:
    """The connections to one server; a context manager that closes them."""

    def __init__(self, host: str, port: int, *, keep_alive: bool = True, timeout_s: float | None = None) -> None:
        self._host = host
        self._port = port
        self._keep_alive = keep_alive
        self._timeout_s = timeout_s
        self._idle: list[Connection] = []

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *error: object) -> None:
        for connection in self._idle:
            connection.close()

    async def exchange(self, request: bytes) -> Exchange:
        """Send a request on an idle connection, or on a new one; never raises for what the server does."""
        exchange = Exchange(sent_at=time.perf_counter())
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._exchange(request, exchange)
        except TimeoutError:
            exchange.failure = Failure("timeout", f"no whole answer in {self._timeout_s} s")
        except ConnectionLostError as error:
            exchange.failure = error.failure
        except OSError as error:
            is_refused = isinstance(error, ConnectionRefusedError)
            detail = error.strerror or str(error)
            exchange.failure = Failure("connection refused") if is_refused else Failure("connection failed", detail)
        return exchange

    async def _exchange(self, request: bytes, exchange: Exchange) -> None:
        while True:
            is_kept = bool(self._idle)
            connection = self._idle.pop() if is_kept else await self._connect()
            try:
                await connection.send(request, exchange)
            except ConnectionLostError as error:
                if not (is_kept and error.is_unanswered):
                    raise
                continue
            finally:
                if self._keep_alive and connection.is_reusable:
                    self._idle.append(connection)
                else:
                    connection.close()
            return

    async def _connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, self._host, self._port)
        return connection
