"""Errors of Anthropic's routes in Anthropic's envelope, whoever made them.

    {"type": "error", "error": {"type", "message", "param", "code"}, "request_id"}

`AnthropicEnvelopeMiddleware` is outermost: endpoints, router and the other middlewares answer with OpenAI's envelope
(`frontend/errors.py`), which is rewritten here for these routes alone. Statuses stay. It also sends the request's id
under Anthropic's name, `request-id`. Invariant: answers of other routes, and those without an error, pass as they are.
"""

from typing import Any

import orjson
from starlette._utils import get_route_path
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATHS = ("/v1/messages",)

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error(body: dict[str, Any], request_id: str | None = None) -> dict[str, Any]:
    """The envelope for an error in OpenAI's."""
    error = body["error"]
    status = error["status"]
    error_type = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    inner = {"type": error_type, "message": error["message"], "param": error["param"], "code": error["code"]}
    return {"type": "error", "error": inner, "request_id": request_id}


class AnthropicEnvelopeMiddleware:
    """Rewrites the error answers of Anthropic's routes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not _is_anthropic(get_route_path(scope)):
            await self.app(scope, receive, send)
            return
        await self.app(scope, receive, _ErrorRewriter(send))


def _is_anthropic(path: str) -> bool:
    return any(path == known or path.startswith(known + "/") for known in PATHS)


class _ErrorRewriter:
    """Sends a response on; one with an error waits for its body."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        """Send one message of the response, or keep it."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if "x-request-id" in headers:
                headers["request-id"] = headers["x-request-id"]
            if message["status"] >= 400 and headers.get("content-type", "").startswith("application/json"):
                self._start = message
                return
        if self._start is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            await self._send_error(self._start)

    async def _send_error(self, start: Message) -> None:
        headers = MutableHeaders(scope=start)
        body = orjson.dumps(anthropic_error(orjson.loads(self._body), headers.get("request-id")))
        headers["content-length"] = str(len(body))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})
