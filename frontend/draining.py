"""The end of a frontend: it refuses what is new, and stays until what runs has ended.

`DrainMiddleware` stands before every route and counts what runs; `__main__` begins the drain on SIGTERM and asks ten
times a second whether it is over. The listening socket stays open meanwhile, so that whoever comes is told to try
again instead of being cut off. Invariant: a request that was let in is never refused later; once a drain has begun, no
answer leaves its connection open.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterable

from starlette._utils import get_route_path
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from frontend.errors import DrainingError, error_response

LEAVING_S = 0.2
"""Connections that were accepted before the end get this long to say what they want, so that they hear a refusal."""
_SERVED_PATHS = frozenset({"/health", "/health/live", "/ping", "/version", "/metrics", "/load"})
"""Probes and whoever watches are answered, and so is who wants to end a running request."""
_SERVED_PREFIX = "/v1/requests/"
_READ_AWAY_S = 1.0
"""The body of a refused request is read for so long: a connection that is closed before may lose the answer."""


class Drain:
    """Whether this frontend drains, and how far it has come."""

    def __init__(self) -> None:
        self.num_running = 0
        """Requests that were let in and have not ended."""
        self._deadline: float | None = None
        self._empty_since: float | None = None

    @property
    def is_draining(self) -> bool:
        """True once it was told to stop."""
        return self._deadline is not None

    @property
    def is_late(self) -> bool:
        """True when what runs has had its time."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    def begin(self, timeout_s: float) -> None:
        """Refuse what is new from now on; what runs gets so many seconds. A later call only shortens that."""
        deadline = time.monotonic() + timeout_s
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)

    @property
    def is_over(self) -> bool:
        """True when nothing has run for `LEAVING_S`; to be asked again and again."""
        now = time.monotonic()
        if self.num_running or self._empty_since is None:
            self._empty_since = None if self.num_running else now
        return self._empty_since is not None and now - self._empty_since >= LEAVING_S


class DrainMiddleware:
    """Counts what runs, and refuses what comes during a drain."""

    def __init__(self, app: ASGIApp, *, drain: Drain) -> None:
        self.app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it with 503."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_last(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.is_draining:
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        if not self._drain.is_draining:
            self._drain.num_running += 1
            try:
                await self.app(scope, receive, send_last)
            finally:
                self._drain.num_running -= 1
            return
        path = get_route_path(scope)
        if path in _SERVED_PATHS or path.startswith(_SERVED_PREFIX):
            await self.app(scope, receive, send_last)
            return
        await _read_away(receive)
        await error_response(DrainingError())(scope, receive, send_last)


async def _read_away(receive: Receive) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_READ_AWAY_S):
            while (await receive()).get("more_body"):
                pass


def close_after_answer(connections: Iterable[object]) -> None:
    """Have these connections (uvicorn's protocols) end with the answer that is under way on them."""
    for connection in connections:
        cycle = getattr(connection, "cycle", None)
        if cycle is not None:
            cycle.keep_alive = False
