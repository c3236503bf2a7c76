"""Server-sent events: the bytes of a streamed answer, and the response that sends them.

A chunk is put together from a prefix that is encoded once per request and the escaped text, because one is sent per
token. `data: [DONE]` always means that the answer is complete: a failure after the status line becomes one
`data: {"error": …}` event and no [DONE]. Silence is filled with comments (`keep_alive.py`). Used by `answer_writer` and
`serving`.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from types import MappingProxyType
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from frontend.disconnect import wait_for_disconnect
from frontend.edge import edge_settings
from frontend.errors import ERROR_CODE_SCOPE_KEY, ShuttingDownError, error_body, internal_error_body
from frontend.openai.keep_alive import KeepAlive
from ipc.errors import FastInferenceError

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
Events = AsyncGenerator[bytes, None]

_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def event(data: dict[str, Any]) -> bytes:
    """One event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


def named_event(data: dict[str, Any]) -> bytes:
    """One event that is named after its `type`."""
    return b"event: %b\n%b" % (data["type"].encode(), event(data))


class ChunkEncoder:
    """Writes the chunks of one stream.

    `head` holds the fields that all chunks share; `text_path` is where a choice keeps its text: `("text",)`, or
    `("delta", "content")`. With `has_usage` every chunk carries a `usage` field, as OpenAI's do when asked for it.
    """

    def __init__(self, head: dict[str, Any], text_path: tuple[str, ...], *, has_usage: bool) -> None:
        self._head = head
        self._has_usage = has_usage
        self._prefix = b"data: " + orjson.dumps(head)[:-1] + b',"choices":[{"index":'
        names = b":{".join(orjson.dumps(name) for name in text_path)
        self._before_text = b"," + names + b":"
        self._after_text = b"}" * (len(text_path) - 1) + b',"logprobs":null,"finish_reason":null}]'
        self._no_usage = b',"usage":null}\n\n' if has_usage else b"}\n\n"

    def text(self, index: int, text: str, usage: dict[str, Any] | None = None) -> bytes:
        """A chunk with text."""
        end = self._no_usage if usage is None else b',"usage":' + orjson.dumps(usage) + b"}\n\n"
        return b"%b%d%b%b%b%b" % (self._prefix, index, self._before_text, orjson.dumps(text), self._after_text, end)

    def choice(
        self,
        index: int,
        choice: dict[str, Any],
        usage: dict[str, Any] | None = None,
        *,
        extra: Mapping[str, Any] = MappingProxyType({}),
    ) -> bytes:
        """A chunk with any other choice (its role, its end), and `extra` fields beside the choices."""
        chunk = {**self._head, **extra, "choices": [{"index": index, **choice}]}
        if self._has_usage:
            chunk["usage"] = usage
        return event(chunk)

    def usage(self, usage: dict[str, Any], *, extra: Mapping[str, Any] = MappingProxyType({})) -> bytes:
        """The chunk after the last choice: usage alone, and `extra` fields."""
        return event({**self._head, **extra, "choices": [], "usage": usage})


class EventStreamResponse(Response):
    """Sends events as they come and stops when the client leaves; calls `close` exactly once in every case.

    An exception of `events` becomes an error event, after which nothing follows; `write_error` makes it of the body of
    an error answer.
    """

    def __init__(
        self,
        events: Events,
        close: Callable[[], None],
        headers: dict[str, str] | None = None,
        *,
        write_error: Callable[[dict[str, Any]], bytes] = event,
    ) -> None:
        super().__init__(headers={**_HEADERS, **(headers or {})}, media_type="text/event-stream")
        del self.headers["content-length"]
        self._events = events
        self._close = close
        self._write_error = write_error
        self._is_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        sending = asyncio.create_task(self._send(scope, send))
        watching = asyncio.create_task(wait_for_disconnect(receive))
        try:
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        except asyncio.CancelledError:  # the server has no more time to drain
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            if self._is_started:
                scope[ERROR_CODE_SCOPE_KEY] = ShuttingDownError.code
                last = self._write_error(error_body(ShuttingDownError()))
                await send({"type": "http.response.body", "body": last, "more_body": False})
        finally:
            sending.cancel()
            watching.cancel()
            await asyncio.gather(sending, watching, return_exceptions=True)
            await self._events.aclose()
            self._close()

    async def _send(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self._is_started = True
        last = b""
        keep_alive = KeepAlive(send, edge_settings(scope).sse_ping_interval_s)
        try:
            async for item in self._events:
                await send({"type": "http.response.body", "body": item, "more_body": True})
                keep_alive.touch()
        except FastInferenceError as error:
            log.warning("a stream failed: %s (%s)", error.message, error.code)
            scope[ERROR_CODE_SCOPE_KEY] = error.code
            last = self._write_error(error_body(error))
        except Exception:
            log.exception("a stream failed")
            scope[ERROR_CODE_SCOPE_KEY] = FastInferenceError.code
            last = self._write_error(internal_error_body())
        finally:
            await keep_alive.stop()
        await send({"type": "http.response.body", "body": last, "more_body": False})
