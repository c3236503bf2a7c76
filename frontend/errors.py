"""How errors look over HTTP: one table from the error tree of `ipc.errors` to statuses, one envelope for all of them.

    {"error": {"message", "type", "param", "code", "status"}}

`code` is a stable string (OpenAI's where it has one), `status` repeats the HTTP status. Every non-2xx answer of a
frontend has this body; `app` registers the handlers, `openai/streaming` writes the same envelope as an SSE event.
Invariant: messages of 5xx answers never contain paths, traces or other internals.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ipc.errors import (
    ClientError,
    ConfigError,
    ContextLengthError,
    EngineUnavailableError,
    FastInferenceError,
    InvalidRequestError,
    ModelNotFoundError,
    ProtocolError,
    QueueFullError,
    RequestFailedError,
    RequestQuarantinedError,
    RequestTimeoutError,
    ServerError,
    UnsupportedParameterError,
)


class MalformedRequestError(ClientError):
    """The bytes of a connection are no HTTP."""

    code = "invalid_http"


class HeadTooLargeError(ClientError):
    """Target and headers of a request exceed their limits."""

    code = "headers_too_large"


class RequestTimedOutError(ClientError):
    """A request did not come in whole within its time."""

    code = "request_timeout"


class HostNotAllowedError(ClientError):
    """The server does not answer under the name in the Host header."""

    code = "host_not_allowed"


class TooManyConnectionsError(EngineUnavailableError):
    """A frontend has as many connections as it may."""

    code = "too_many_connections"


class InvalidApiKeyError(ClientError):
    """The request carries no API key, or a wrong one."""

    code = "invalid_api_key"


class AdminKeyRequiredError(ClientError):
    """A control route was called without an admin key."""

    code = "admin_key_required"


class BodyTooLargeError(ClientError):
    """The request body exceeds `max_body_bytes`."""

    code = "body_too_large"


class UnsupportedMediaTypeError(ClientError):
    """The request body is declared to be something else than JSON."""

    code = "unsupported_media_type"


class TooManyBodiesError(QueueFullError):
    """The bodies of all requests together are too large to be held."""

    code = "too_many_bodies"


class TokenizerBusyError(QueueFullError):
    """Too many requests to /tokenize and /detokenize are waiting."""

    code = "rate_limit"


class RequestNotFoundError(ClientError):
    """No request with this id is running or waiting."""

    code = "request_not_found"


class RequestCancelledError(ClientError):
    """The request was cancelled by its id, and there is no partial answer to give."""

    code = "request_cancelled"

    def __init__(self) -> None:
        super().__init__("The request was cancelled.")


class ShuttingDownError(EngineUnavailableError):
    """The server was told to stop, and its drain timeout is over."""

    code = "shutting_down"

    def __init__(self) -> None:
        super().__init__("The server is shutting down.")


class DrainingError(EngineUnavailableError):
    """The server was told to stop: it finishes what runs, and takes nothing new."""

    code = "draining"

    def __init__(self) -> None:
        super().__init__("The server is shutting down and takes no new requests.", retry_after_s=5.0)


class BatchApiDisabledError(ClientError):
    """This server keeps no files and batches."""

    code = "batch_api_disabled"


class StoredFileNotFoundError(ClientError):
    """There is no file with this id, or it belongs to another key."""

    code = "file_not_found"


class BatchNotFoundError(ClientError):
    """There is no batch with this id, or it belongs to another key."""

    code = "batch_not_found"


class BatchStatusError(ClientError):
    """A batch has ended, or is about to."""

    code = "invalid_batch_status"


class OriginNotAllowedError(ClientError):
    """A web page of another origin sends what browsers send for any page without asking."""

    code = "origin_not_allowed"


class TooManyBatchesError(QueueFullError):
    """A key has as many unfinished batches as it may."""

    code = "too_many_batches"


class StorageError(ServerError):
    """The state dir cannot be read or written."""

    code = "storage_error"


@dataclass(frozen=True, slots=True)
class HttpStatus:
    """What a class of errors becomes."""

    status: int
    type: str


_INVALID_REQUEST = "invalid_request_error"
_SERVER_ERROR = "server_error"
_UNAVAILABLE = "service_unavailable_error"

HTTP_STATUSES: dict[type[FastInferenceError], HttpStatus] = {
    ClientError: HttpStatus(400, _INVALID_REQUEST),
    InvalidRequestError: HttpStatus(400, _INVALID_REQUEST),
    ContextLengthError: HttpStatus(400, _INVALID_REQUEST),
    UnsupportedParameterError: HttpStatus(400, _INVALID_REQUEST),
    ModelNotFoundError: HttpStatus(404, _INVALID_REQUEST),
    MalformedRequestError: HttpStatus(400, _INVALID_REQUEST),
    HeadTooLargeError: HttpStatus(431, _INVALID_REQUEST),
    RequestTimedOutError: HttpStatus(408, _INVALID_REQUEST),
    HostNotAllowedError: HttpStatus(403, "permission_error"),
    TooManyConnectionsError: HttpStatus(503, _UNAVAILABLE),
    InvalidApiKeyError: HttpStatus(401, "authentication_error"),
    AdminKeyRequiredError: HttpStatus(403, "permission_error"),
    BodyTooLargeError: HttpStatus(413, _INVALID_REQUEST),
    UnsupportedMediaTypeError: HttpStatus(415, _INVALID_REQUEST),
    RequestNotFoundError: HttpStatus(404, _INVALID_REQUEST),
    RequestCancelledError: HttpStatus(499, _INVALID_REQUEST),
    BatchApiDisabledError: HttpStatus(404, _INVALID_REQUEST),
    StoredFileNotFoundError: HttpStatus(404, _INVALID_REQUEST),
    BatchNotFoundError: HttpStatus(404, _INVALID_REQUEST),
    BatchStatusError: HttpStatus(409, _INVALID_REQUEST),
    OriginNotAllowedError: HttpStatus(403, "permission_error"),
    QueueFullError: HttpStatus(429, "rate_limit_error"),
    TooManyBatchesError: HttpStatus(429, "rate_limit_error"),
    TooManyBodiesError: HttpStatus(429, "rate_limit_error"),
    TokenizerBusyError: HttpStatus(429, "rate_limit_error"),
    FastInferenceError: HttpStatus(500, _SERVER_ERROR),
    ServerError: HttpStatus(500, _SERVER_ERROR),
    RequestFailedError: HttpStatus(500, _SERVER_ERROR),
    RequestQuarantinedError: HttpStatus(500, _SERVER_ERROR),
    RequestTimeoutError: HttpStatus(504, "timeout_error"),
    ConfigError: HttpStatus(500, _SERVER_ERROR),
    ProtocolError: HttpStatus(500, _SERVER_ERROR),
    EngineUnavailableError: HttpStatus(503, _UNAVAILABLE),
    ShuttingDownError: HttpStatus(503, _UNAVAILABLE),
    DrainingError: HttpStatus(503, _UNAVAILABLE),
    StorageError: HttpStatus(507, _SERVER_ERROR),
}

ERROR_CODE_SCOPE_KEY = "fast_inference.error_code"
"""Code of the error that a request was answered with, or that its stream ended in."""
_ROUTE_CODES = {404: "not_found", 405: "method_not_allowed"}
_INTERNAL_MESSAGE = "Internal server error."
_FAILED_MESSAGE = "The engine failed on this request; other requests are not affected."


def envelope(
    status: int, error_type: str, code: str, message: str, param: str | None = None
) -> dict[str, dict[str, Any]]:
    """The body of an error answer."""
    return {"error": {"message": message, "type": error_type, "param": param, "code": code, "status": status}}


def error_body(error: FastInferenceError) -> dict[str, dict[str, Any]]:
    """The envelope of an error of our tree; messages of 500 answers are ours, but for what the client can act on."""
    mapped = HTTP_STATUSES[type(error)]
    message = error.message
    if isinstance(error, RequestFailedError):
        message = _FAILED_MESSAGE
    elif mapped.status == 500 and not isinstance(error, RequestQuarantinedError):
        message = _INTERNAL_MESSAGE
    return envelope(mapped.status, mapped.type, error.code, message, error.param)


def internal_error_body() -> dict[str, dict[str, Any]]:
    """The envelope of an error that nobody foresaw."""
    return envelope(500, _SERVER_ERROR, "internal_error", _INTERNAL_MESSAGE)


class ErrorResponse(Response):
    """An envelope as an answer; leaves its code in the scope, for whoever counts refusals."""

    def __init__(self, body: dict[str, dict[str, Any]], headers: dict[str, str] | None = None) -> None:
        self._code = body["error"]["code"]
        super().__init__(orjson.dumps(body), body["error"]["status"], headers, "application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        scope[ERROR_CODE_SCOPE_KEY] = self._code
        await super().__call__(scope, receive, send)


def error_response(error: FastInferenceError) -> Response:
    """The answer for an error of our tree, with Retry-After (seconds) where trying again makes sense."""
    headers: dict[str, str] = {}
    if isinstance(error, QueueFullError | EngineUnavailableError):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, RequestQuarantinedError):
        headers["x-should-retry"] = "false"  # OpenAI's clients send a request again after other 5xx answers
    if isinstance(error, BodyTooLargeError | TooManyBodiesError | TooManyConnectionsError):
        headers["connection"] = "close"  # the rest of the body is not read
    if isinstance(error, InvalidApiKeyError):
        headers["www-authenticate"] = 'Bearer realm="fast-inference"'
    return ErrorResponse(error_body(error), headers)


def closing_answer(error: FastInferenceError, server_headers: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """The same as bytes of HTTP/1.1, for where no application writes it; its connection ends with it."""
    response = error_response(error)
    headers = [*server_headers, *response.raw_headers]
    lines = b"".join(b"%b: %b\r\n" % header for header in headers if header[0] != b"connection")
    status = HTTPStatus(response.status_code)
    head = b"HTTP/1.1 %d %b\r\n%bconnection: close\r\n\r\n" % (status, status.phrase.encode(), lines)
    return head + bytes(response.body)


def http_exception_response(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """The answer for what the router refuses (404, 405), or what an added route raises as `HTTPException`."""
    code = _ROUTE_CODES.get(status, "http_error")
    error_type = _INVALID_REQUEST if status < 500 else _SERVER_ERROR
    return ErrorResponse(envelope(status, error_type, code, detail), headers)


def json_response(
    body: dict[str, Any] | list[Any], *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """JSON as orjson writes it."""
    return Response(orjson.dumps(body), status_code=status, headers=headers, media_type="application/json")
