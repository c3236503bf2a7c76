"""uvicorn's HTTP/1.1 protocol with our error envelope where bytes are no HTTP, which no application ever sees.

Used by `__main__`. Everything else is uvicorn's (`uvicorn/protocols/http/httptools_impl.py`).
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from frontend.errors import MalformedRequestError, error_response

_STATUS_LINE = b"HTTP/1.1 400 Bad Request\r\n"


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that cannot be parsed, and close; an answer in progress is only cut, not written into."""
        if self.cycle is None or self.cycle.response_complete:
            response = error_response(MalformedRequestError(msg))
            headers = [*self.server_state.default_headers, *response.raw_headers, (b"connection", b"close")]
            lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            self.transport.write(_STATUS_LINE + lines + b"\r\n" + bytes(response.body))
        self.transport.close()
