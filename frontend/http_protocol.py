"""uvicorn's HTTP/1.1 protocol with limits on the head of a request, and with our error envelope where bytes are no HTTP
or too many: no application ever sees those.

The parser (httptools) has no limits of its own: it collects a header that never ends. Used by `__main__`; everything
else is uvicorn's (`uvicorn/protocols/http/httptools_impl.py`). Invariant: a connection holds back no more than
`MAX_HEAD_BYTES` and what one read of the socket brings.
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from frontend.errors import HeadTooLargeError, MalformedRequestError, error_response

MAX_HEAD_BYTES = 32 * 1024
"""Of target and headers (trailers too) of a request together."""
MAX_HEADERS = 100

_STATUS_LINES = {
    400: b"HTTP/1.1 400 Bad Request\r\n",
    431: b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
}
_SEPARATOR_BYTES = 4
"""`: ` and the end of a line."""


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._num_head_bytes = 0
        self._num_headers = 0
        self._num_held_bytes = 0
        """Fed to the parser since it last called back."""
        self._is_head_too_large = False

    def data_received(self, data: bytes) -> None:
        """Feed the parser; refuse what it would collect without end."""
        self._num_held_bytes += len(data)
        super().data_received(data)
        if self._num_held_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._is_head_too_large = True
            self.send_400_response("")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._num_head_bytes = self._num_headers = self._num_held_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        self._num_headers += 1
        self._count_head(len(name) + len(value) + _SEPARATOR_BYTES)
        super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._num_held_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._num_held_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that cannot be parsed, and close; an answer in progress is only cut, not written into."""
        if self.cycle is None or self.cycle.response_complete:
            error = self._head_error() if self._is_head_too_large else MalformedRequestError(msg)
            response = error_response(error)
            headers = [*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")]
            lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            self.transport.write(_STATUS_LINES[response.status_code] + lines + b"\r\n" + bytes(response.body))
        self.transport.close()

    def _count_head(self, num_bytes: int) -> None:
        """Raises `HeadTooLargeError`, on which the parser gives up and uvicorn calls `send_400_response`."""
        self._num_held_bytes = 0
        self._num_head_bytes += num_bytes
        if self._num_head_bytes > MAX_HEAD_BYTES or self._num_headers > MAX_HEADERS:
            self._is_head_too_large = True
            raise self._head_error()

    def _head_error(self) -> HeadTooLargeError:
        return HeadTooLargeError(
            f"A request may have {MAX_HEADERS} headers and {MAX_HEAD_BYTES} bytes before its body."
        )
