"""Requests to an OpenAI-compatible server, one at a time and blocking, so that Ctrl-C ends a wait wherever it is.

Invariant: whatever the server or the network does is an `ApiError` of one line; a stream that ends without `[DONE]` is
one too. A stream that is closed early closes its connection, which tells our server to stop generating.
Next: `answer.py`.
"""

import contextlib
import http.client
import json
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fast_inference.console import printable
from ipc.errors import ConfigError

_CONNECT_TIMEOUT_S = 10.0
_POLL_READY_S = 0.2
_MAX_SHOWN_CHARS = 400
_DONE = b"[DONE]"
_REDIRECTS = (301, 302, 303, 307, 308)
_NO_SUCH_PATH = ("", "not_found", "not_found_error")
"""Codes of a 404 that says nothing of a model."""


class ApiError(Exception):
    """A request failed: what the server said of it, or what became of the connection."""

    def __init__(self, message: str, *, status: int = 0, code: str = "") -> None:
        """`status` is 0 where there was no HTTP status, `code` empty where the error had none."""
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code


class ApiClient:
    """One server, and the key that requests to it carry."""

    def __init__(self, url: str, api_key: str | None = None, *, timeout_s: float = 600.0) -> None:
        """Take a base URL, with or without `/v1`; `timeout_s` is the longest silence.

        Raises:
            ConfigError: it is none, or the key cannot be sent.
        """
        try:
            parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
            self._port = parts.port
        except ValueError as error:
            raise ConfigError(f"--url: {url!r} is no URL: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--url: {url!r} is no base URL such as http://127.0.0.1:8000")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError("--api-key: a key has only printable characters of ASCII")
        self._host = parts.hostname
        self._is_secure = parts.scheme == "https"
        self._root = urllib.parse.quote(parts.path.rstrip("/").removesuffix("/v1"), safe="/%")
        self._timeout_s = timeout_s
        self._headers = {"Accept": "*/*", "User-Agent": "fast-inference", "Connection": "close"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{self._root}"

    def get(self, path: str) -> Any:
        """The JSON of `GET path`; raises `ApiError`."""
        with self._request("GET", path, None) as response:
            return _parsed(response.read())

    def get_text(self, path: str) -> str:
        """The body of `GET path`; raises `ApiError`."""
        with self._request("GET", path, None) as response:
            return response.read().decode(errors="replace")

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON of `POST path`; raises `ApiError`."""
        with self._request("POST", path, body) as response:
            return _parsed(response.read())

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The chunks of a streamed answer as they come; raises `ApiError`, also in the middle."""
        with self._request("POST", path, {**body, "stream": True}) as response:
            for data in _events(response):
                if data == _DONE:
                    return
                chunk = _parsed(data)
                if not isinstance(chunk, dict):
                    raise ApiError("the server's answer is no stream of chunks")
                if error := chunk.get("error"):
                    raise _error_of(error, response.status)
                yield chunk
        raise ApiError("the answer ended before it was complete")

    def model_names(self) -> list[str]:
        """Names of the models that the server lists; raises `ApiError`."""
        try:
            return [str(model["id"]) for model in self.get("/v1/models")["data"]]
        except (LookupError, TypeError) as error:
            raise ApiError(f"{self.url}/v1/models does not list models") from error

    def wait_ready(self, tell: Callable[[str], None]) -> None:
        """Wait until the server takes requests, telling what it is at; raises `ApiError` where there is none."""
        while True:
            state, detail = self.health()
            if state == "ready":
                return
            tell(f"waiting for the server: {detail}")
            time.sleep(_POLL_READY_S)

    def health(self) -> tuple[str, str]:
        """State of the server and a line about it; raises `ApiError` where there is none.

        One that does not know the question is taken for ready.
        """
        try:
            with self._request("GET", "/health", None):
                return "ready", ""
        except ApiError as error:
            if error.status == 404:
                return "ready", ""
            if error.status != 503:
                raise
            return error.message.removeprefix("The engine is ").rstrip("."), error.message

    @contextlib.contextmanager
    def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> Iterator[http.client.HTTPResponse]:
        """Send a request and give the response, if its status is 200; the connection is closed at the end."""
        kind = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=_CONNECT_TIMEOUT_S)
        headers = dict(self._headers)
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            connection.connect()
            connection.sock.settimeout(self._timeout_s)
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.request(method, self._root + path, data, headers)
            with connection.getresponse() as response:
                if response.status != 200:
                    raise self._located(_refusal(response), path, response)
                yield response
        except ConnectionRefusedError as error:
            raise ApiError(f"nothing listens on {self.url}: is the server started?") from error
        except TimeoutError as error:
            raise ApiError(f"{self.url} does not answer") from error
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ApiError(f"the connection to {self.url} failed: {_one_line(reason)}") from error
        finally:
            connection.close()

    def _located(self, error: ApiError, path: str, response: http.client.HTTPResponse) -> ApiError:
        """With the URL, where it is most likely the URL that is wrong."""
        place = response.getheader("Location")
        if error.status in _REDIRECTS and place:
            return ApiError(
                f"{self.url}{path} has moved to {_one_line(place)}: name that with --url", status=error.status
            )
        if error.status == 404 and error.code in _NO_SUCH_PATH:
            question = f"is {self.url} the base URL of an OpenAI-compatible server?"
            return ApiError(f"{self.url}{path}: {error.message} ({question})", status=404, code=error.code)
        return error


def _events(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The data of each server-sent event, as soon as its last line is there."""
    lines: list[bytes] = []
    for raw in response:
        line = raw.rstrip(b"\r\n")
        if line.startswith(b"data:"):
            lines.append(line[5:].removeprefix(b" "))
        elif not line and lines:
            yield b"\n".join(lines)
            lines = []


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ApiError("the server's answer is no JSON: is this an OpenAI-compatible server?") from error


def _refusal(response: http.client.HTTPResponse) -> ApiError:
    body = response.read()
    try:
        answer = json.loads(body)
    except ValueError:
        return ApiError(f"HTTP {response.status} {_one_line(body.decode(errors='replace'))}", status=response.status)
    return _error_of(answer.get("error", answer) if isinstance(answer, dict) else answer, response.status)


def _error_of(error: Any, status: int) -> ApiError:
    """Of an error envelope, in the forms that servers have; with the way out where we know it."""
    if not isinstance(error, dict):
        return ApiError(_one_line(str(error)), status=status)
    message = _one_line(str(error.get("message") or error.get("detail") or error))
    code = error.get("code") if isinstance(error.get("code"), str) else error.get("type")
    if status == 401:
        message += " (give it with --api-key, or in FAST_INFERENCE_API_KEY)"
    return ApiError(message, status=status, code=str(code or ""))


def _one_line(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= _MAX_SHOWN_CHARS else line[:_MAX_SHOWN_CHARS] + "…"
