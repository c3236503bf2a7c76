"""What happens around every request, as plain ASGI: request ids, the access log and its counts, the body limit,
unforeseen errors.

`app` installs both middlewares, `RequestContextMiddleware` outermost. Invariant: every response carries a request id
that is ours or matches `[A-Za-z0-9._-]{1,128}`, and every request leaves exactly one access line, whatever it sent.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Mapping
from types import MappingProxyType

from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from frontend.errors import (
    BodyTooLargeError,
    ErrorResponse,
    ShuttingDownError,
    TooManyBodiesError,
    error_response,
    internal_error_body,
)
from frontend.metrics.frontend_metrics import FrontendMetrics
from ipc.log import current_request_id

access_log = logging.getLogger("frontend.access")
log = logging.getLogger(__name__)

MAX_HELD_BODY_BYTES = 256 * 2**20
"""Of all requests of a frontend together."""
CLIENT_CLOSED_REQUEST = 499
"""The status in the access line when the client left before an answer."""

REFUSED_STATUS_SCOPE_KEY = "fast_inference.refused_status"
"""Set by `http_protocol.py` where it answered a request itself, with a body that did not come or was no HTTP."""
_ID_SCOPE_KEY = "fast_inference.request_id"
_TIME_SCOPE_KEY = "fast_inference.came_at_us"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id_of(headers: Headers) -> str:
    """The client's request id if it is harmless, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def request_id_in(scope: Scope) -> str:
    """The id of the request that is served; empty outside of the middleware."""
    return str(scope.get(_ID_SCOPE_KEY, ""))


def came_at_us_in(scope: Scope) -> int:
    """When the request that is served came, on the wall clock in microseconds; now outside of the middleware."""
    return int(scope.get(_TIME_SCOPE_KEY, 0)) or time.time_ns() // 1000


class RequestContextMiddleware:
    """Gives each request its id and access line, and turns unforeseen errors into a generic 500."""

    def __init__(self, app: ASGIApp, *, echo_request_id: bool = True, metrics: FrontendMetrics | None = None) -> None:
        self.app = app
        self.echo_request_id = echo_request_id
        self._metrics = metrics or FrontendMetrics()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began_at = time.perf_counter()
        request_id = scope[_ID_SCOPE_KEY] = request_id_of(Headers(scope=scope))
        token = current_request_id.set(request_id)
        scope[_TIME_SCOPE_KEY] = time.time_ns() // 1000
        status = CLIENT_CLOSED_REQUEST
        is_started = False
        counting = self._metrics.begin_request()

        async def send_with_id(message: Message) -> None:
            nonlocal status, is_started
            if message["type"] == "http.response.start":
                status, is_started = message["status"], True
                counting.on_headers(message["headers"])
                if self.echo_request_id:
                    MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            log.debug("the client left while it sent request %s", request_id)
        except asyncio.CancelledError:  # the server has no more time to drain
            if is_started:
                raise
            await error_response(ShuttingDownError())(scope, receive, send_with_id)
        except Exception:
            if is_started:
                raise  # the server logs it and cuts the connection
            log.exception("request %s failed", request_id)
            response = ErrorResponse(internal_error_body())
            await response(scope, receive, send_with_id)
        finally:
            status = status if is_started else scope.get(REFUSED_STATUS_SCOPE_KEY, status)
            elapsed_s = time.perf_counter() - began_at
            counting.end(scope, status, elapsed_s)
            _log_access(scope, status, elapsed_s * 1e3, request_id)
            current_request_id.reset(token)


def _log_access(scope: Scope, status: int, elapsed_ms: float, request_id: str) -> None:
    path = scope["path"].encode("unicode_escape").decode("ascii")
    access_log.info("%s %s %d %.1f ms %s", scope["method"], path, status, elapsed_ms, request_id)


class BodyLimitMiddleware:
    """Refuses bodies over the limit: at once when their length is declared, else as soon as they exceed it.

    All bodies that are held at one time, for as long as their requests are served, have a limit together too. A route
    in `streamed_routes` holds nothing and has a limit of its own.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        max_held_bytes: int = MAX_HELD_BODY_BYTES,
        streamed_routes: Mapping[tuple[str, str], int] = MappingProxyType({}),
    ) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.max_held_bytes = max_held_bytes
        self.streamed_routes = streamed_routes
        """Largest body, by method and path."""
        self._num_held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; `receive` raises `BodyTooLargeError` or `TooManyBodiesError` past a limit."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        streamed_bytes = self.streamed_routes.get((scope["method"], get_route_path(scope)))
        max_bytes = self.max_body_bytes if streamed_bytes is None else streamed_bytes
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > max_bytes:
            await error_response(_too_large(max_bytes))(scope, receive, send)
            return
        num_bytes = num_held_bytes = 0

        async def receive_limited() -> Message:
            nonlocal num_bytes, num_held_bytes
            message = await receive()
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                num_bytes += size
                if num_bytes > max_bytes:
                    raise _too_large(max_bytes)
                if streamed_bytes is not None:
                    return message
                num_held_bytes += size
                self._num_held_bytes += size
                if self._num_held_bytes > self.max_held_bytes:
                    raise TooManyBodiesError("The server holds too many large requests; try again later.")
            return message

        try:
            await self.app(scope, receive_limited, send)
        finally:
            self._num_held_bytes -= num_held_bytes


def _too_large(max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The request body exceeds {max_bytes} bytes.")
