"""uvicorn's HTTP/1.1 protocol with what protects it: limits on heads, chunks and pipelines, deadlines, checks of the
Host header, and our error envelope where a request is refused before any application sees it.

The parser (httptools) has no limits of its own: it collects a header that never ends. Used by `__main__`; everything
else is uvicorn's (`uvicorn/protocols/http/httptools_impl.py`). Invariants: a connection holds back no more than
`MAX_HEAD_BYTES` and what one read of the socket brings; what comes behind a refused request is never parsed.
Next: `deadlines.py`, `client_transport.py`, `host_header.py`.
"""

import asyncio
import enum
import logging
from dataclasses import dataclass, field
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from frontend.client_transport import ClientTransport, SendWatch
from frontend.deadlines import Deadlines, Waiting
from frontend.errors import (
    HTTP_STATUSES,
    BodyTooLargeError,
    HeadTooLargeError,
    MalformedRequestError,
    RequestTimedOutError,
    closing_answer,
)
from frontend.host_header import HostPolicy
from frontend.metrics.frontend_metrics import FrontendMetrics
from frontend.middleware import REFUSED_STATUS_SCOPE_KEY
from frontend.unframed_answers import OLD_VERSION, without_chunks
from ipc.config import ConnectionConfig
from ipc.errors import ClientError

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 32 * 1024
"""Of target and headers (trailers too) of a request together."""
MAX_TARGET_BYTES = 8 * 1024
MAX_HEADERS = 100
MAX_CHUNKS = 65_536
"""Of a chunked body: each costs as much as a short header, however little is in it."""
MIN_BODY_BYTES_PER_S = 16 * 1024
"""A body that comes at least so fast may take longer than `--body-timeout`: it is large, not slow."""
MAX_PIPELINED = 16
"""Requests that may wait behind one that is being answered."""
MAX_DISCARDED_BYTES = 16 * 2**20
"""What is read and thrown away for a client that still sends when its request has been answered."""
LINGER_TIMEOUT_S = 2.0
"""How long a client may be silent then, before its connection ends."""
MAX_LINGERS = 15
"""How many times so long it may go on sending."""
MAX_CLOSED_AT_ONCE = 20
"""Whose ends take about a millisecond."""

_SEPARATOR_BYTES = 4
"""`: ` and the end of a line."""
_VERSIONS = (OLD_VERSION, "1.1")


@dataclass(frozen=True, slots=True)
class ConnectionGuards:
    """What all connections of a process share."""

    deadlines: Deadlines
    sends: SendWatch
    hosts: HostPolicy
    min_body_bytes: int
    """Of a body, in its time, for as much time again."""
    metrics: FrontendMetrics = field(default_factory=FrontendMetrics)
    """Where refusals are counted that no application sees."""

    @classmethod
    def of(
        cls, config: ConnectionConfig, hosts: HostPolicy, metrics: FrontendMetrics | None = None
    ) -> "ConnectionGuards":
        """As configured."""
        timeouts_s = {
            Waiting.HEAD: config.header_timeout,
            Waiting.BODY: config.body_timeout,
            Waiting.REQUEST: config.keep_alive_timeout,
            Waiting.CLOSE: LINGER_TIMEOUT_S,
        }
        min_body_bytes = max(1, round(config.body_timeout * MIN_BODY_BYTES_PER_S))
        return cls(
            Deadlines(timeouts_s), SendWatch(config.send_timeout), hosts, min_body_bytes, metrics or FrontendMetrics()
        )

    def expire(self) -> bool:
        """Close some of what is over; True if there is more, for the next turn of the event loop."""
        return self.deadlines.expire(MAX_CLOSED_AT_ONCE) | self.sends.expire(MAX_CLOSED_AT_ONCE)


class _Phase(enum.Enum):
    """How far the last request that came has come."""

    COMPLETE = enum.auto()
    """So far that nothing of the next one is there."""
    STARTING = enum.auto()
    """The connection is new, or brought something that may become a request."""
    HEAD = enum.auto()
    BODY = enum.auto()


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, guards: ConnectionGuards, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._guards = guards
        self._phase = _Phase.STARTING
        self._waiting: Waiting | None = None
        self._served: RequestResponseCycle | None = None
        """The request that is answered, or was last; `cycle` is the one that came last."""
        self._is_lingering = False
        self._num_head_bytes = 0
        self._num_headers = 0
        self._num_chunks = 0
        self._num_held_bytes = 0
        """Fed to the parser since it last called back."""
        self._num_body_bytes = 0
        """Since the deadline of the body was set."""
        self._num_discarded_bytes = 0
        """Of the last request."""
        self._num_lingers = 0
        self._num_bytes_before_linger = 0
        self._refusal: ClientError | None = None

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The time for the first head runs from here."""
        wrapped = ClientTransport(cast("asyncio.Transport", transport), self, self._guards.sends)
        super().connection_made(wrapped)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever closed it."""
        self._guards.deadlines.change(self, self._waiting, None)
        self._waiting = None
        self._guards.sends.discard(cast("ClientTransport", self.transport))
        self._end_application()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; refuse what it would collect without end."""
        if self.transport.is_closing():
            self._discard(len(data))
            return
        if self._phase is _Phase.COMPLETE:
            self._phase = _Phase.STARTING
            self._wait()
        self._num_held_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            log.debug("a client offers another protocol")  # and gets its answer in this one (RFC 9110, section 7.8)
        except httptools.HttpParserError:
            self._refuse(self._refusal or MalformedRequestError("Invalid HTTP request received."))
        if self._num_held_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(_head_error())

    # --- the parser's callbacks ---

    def on_message_begin(self) -> None:
        """A request begins."""
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refusal = MalformedRequestError("Too many requests before the first of them was answered.")
            raise self._refusal
        self._phase = _Phase.HEAD
        self._num_head_bytes = self._num_headers = self._num_chunks = self._num_held_bytes = 0
        self._num_discarded_bytes = self._num_body_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self._count_head(len(url), MAX_TARGET_BYTES)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        self._num_headers += 1
        self._count_head(len(name) + len(value) + _SEPARATOR_BYTES, MAX_HEAD_BYTES)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete: check it, then let the application begin."""
        try:
            self._check_head()
        except ClientError as error:
            self._refusal = error
            raise
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False  # what follows may be of a protocol that we do not speak
        self._phase = _Phase.BODY
        self._wait()

    def on_chunk_header(self) -> None:
        """A chunk of a body begins."""
        self._num_chunks += 1
        if self._num_chunks > MAX_CHUNKS:
            self._refusal = BodyTooLargeError(f"A body may have {MAX_CHUNKS} chunks.")
            raise self._refusal

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._num_held_bytes = 0
        self._num_body_bytes += len(body)
        if self.cycle.response_complete:
            self._discard(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._num_held_bytes = 0
        super().on_message_complete()
        self._phase = _Phase.COMPLETE
        self._wait()

    # --- uvicorn's hooks ---

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """It is a request's turn."""
        self._served = cycle
        is_old = cycle.scope["http_version"] == OLD_VERSION
        super()._start_asgi_task(cycle, without_chunks(cycle, app) if is_old else app)

    def on_response_complete(self) -> None:
        """An answer was written."""
        super().on_response_complete()
        self._unset_keepalive_if_required()  # ours counts
        self._wait()

    def shutdown(self) -> None:
        """The process ends: nobody is waited for who has had an answer."""
        super().shutdown()
        if self._is_lingering:
            self.transport.abort()

    # --- deadlines and ends ---

    @property
    def is_receiving(self) -> bool:
        """True while a request has come in part, or was refused with more behind it."""
        return self._phase in (_Phase.HEAD, _Phase.BODY)

    def on_lingering(self) -> None:
        """Our side is closed; the client's is to follow."""
        self._is_lingering = True
        self._wait()

    def on_deadline(self, waiting: Waiting) -> None:
        """The time for something is over."""
        self._waiting = None
        if waiting is Waiting.CLOSE:
            self._linger_on()
        elif waiting is Waiting.BODY and self._num_body_bytes >= self._guards.min_body_bytes:
            self._num_body_bytes = 0
            self._wait()
        elif waiting is Waiting.REQUEST or self._phase is _Phase.STARTING:
            self._phase = _Phase.COMPLETE
            self.transport.close()
        else:
            what = "head" if waiting is Waiting.HEAD else "body"
            self._refuse(RequestTimedOutError(f"The {what} of the request did not come in time."))

    def _linger_on(self) -> None:
        """A client that has sent something since the last deadline may read the answer only when it has sent all."""
        self._num_lingers += 1
        if self._num_discarded_bytes == self._num_bytes_before_linger or self._num_lingers >= MAX_LINGERS:
            self.transport.abort()
        else:
            self._num_bytes_before_linger = self._num_discarded_bytes
            self._wait()

    def _wait(self) -> None:
        """Set the deadline for what is waited for now; one that runs for the same thing already stays."""
        waiting = self._waits_for()
        if waiting is not self._waiting:
            self._guards.deadlines.change(self, self._waiting, waiting)
            self._waiting = waiting

    def _waits_for(self) -> Waiting | None:
        if self._is_lingering:
            return Waiting.CLOSE
        if self.pipeline or self.transport.is_closing():
            return None
        if self._phase is _Phase.BODY:
            return Waiting.BODY
        if self._is_answering:
            return None  # the client waits for us
        return Waiting.REQUEST if self._phase is _Phase.COMPLETE else Waiting.HEAD

    def _refuse(self, error: ClientError) -> None:
        """Answer a request that no application is to see, and close; what was begun before it is cut.

        Nothing is written into or behind an answer that is in progress.
        """
        self._guards.metrics.count("rejects_total", error.code)
        status = HTTP_STATUSES[type(error)].status
        is_of_served = self._phase is _Phase.BODY and not self.pipeline
        if is_of_served and self._served is not None:
            can_answer = not self._served.response_started
            cast("dict[str, object]", self._served.scope)[REFUSED_STATUS_SCOPE_KEY] = status
        else:
            can_answer = not self._is_answering
            log.info("refused a request that no application saw: %d %s", status, error.code)
        if can_answer:
            self.transport.write(closing_answer(error, self.server_state.default_headers))
        self._end_application()
        self.transport.close()

    @property
    def _is_answering(self) -> bool:
        return self._served is not None and not self._served.response_complete

    def _end_application(self) -> None:
        """Tell the application that the client is gone, if it still works for it."""
        if self._served is not None and not self._served.response_complete:
            self._served.disconnected = True
            self._served.message_event.set()

    def _discard(self, num_bytes: int) -> None:
        self._num_discarded_bytes += num_bytes
        if self._num_discarded_bytes > MAX_DISCARDED_BYTES:
            self.transport.abort()

    # --- checks ---

    def _count_head(self, num_bytes: int, max_bytes: int) -> None:
        """Raises `HeadTooLargeError`, on which the parser gives up."""
        self._num_held_bytes = 0
        self._num_head_bytes += num_bytes
        if self._num_head_bytes > max_bytes or self._num_headers > MAX_HEADERS:
            self._refusal = _head_error()
            raise self._refusal

    def _check_head(self) -> None:
        """Raises a `ClientError` for what the parser lets pass."""
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            raise MalformedRequestError("The version of a request must be HTTP/1.1 or HTTP/1.0.")
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings and (version == OLD_VERSION or codings != [b"chunked"]):
            raise MalformedRequestError("The only Transfer-Encoding is chunked, in HTTP/1.1.")
        hosts = [value for name, value in self.headers if name == b"host"]
        self._guards.hosts.check(hosts, is_required=version == "1.1")


def _head_error() -> HeadTooLargeError:
    return HeadTooLargeError(
        f"A request may have {MAX_HEADERS} headers and {MAX_HEAD_BYTES} bytes before its body, "
        f"{MAX_TARGET_BYTES} of them in its target."
    )
