"""Answers to HTTP/1.0: those of unknown length are written as they come and end with the connection.

Such a client knows no chunks (RFC 9112, section 6.1), which uvicorn would send to it all the same: nginx asks its
upstreams in HTTP/1.0 unless it is told otherwise, and so do small clients. Used by `http_protocol.py`.
"""

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

OLD_VERSION = "1.0"


def without_chunks(cycle: RequestResponseCycle, app: ASGI3Application) -> ASGI3Application:
    """The application for this one request, whose client is of HTTP/1.0 and gets no other answer on its connection."""

    async def serve(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        has_length = False

        async def send_unframed(message: ASGISendEvent) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                if not has_length:
                    cycle.chunked_encoding = False
            elif message["type"] == "http.response.body" and not has_length:
                cycle.expected_content_length = len(message.get("body", b""))  # uvicorn counts down to 0
            await send(message)

        await app(scope, receive, send_unframed)

    return serve
