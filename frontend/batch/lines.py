"""One line of a batch file: OpenAI's `{"custom_id", "method", "url", "body"}`, or what is wrong with it.

Only the line is checked here; its body is the business of the endpoint, as over HTTP. Invariant: `parse_line` raises
nothing, whatever the bytes are. Next: `line_source.py`, `result_lines.py`.
"""

from dataclasses import dataclass
from typing import Any

from frontend.endpoints import PATHS
from frontend.request_body import parse_json_object
from ipc.errors import InvalidRequestError

MAX_CUSTOM_ID_CHARS = 512
_MAX_SHOWN_CHARS = 100


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A request."""

    number: int
    """Of the line in the input file, from 1."""
    custom_id: str
    url: str
    """One of `frontend.endpoints.PATHS`."""
    body: dict[str, Any]
    """The values of the body, unchecked."""


@dataclass(frozen=True, slots=True)
class WrongLine:
    """A line that is no request."""

    number: int
    custom_id: str | None
    """None where the line has none, or where it is that of another line."""
    code: str
    message: str
    param: str | None = None


class _LineError(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


def parse_line(raw: bytes, number: int) -> BatchLine | WrongLine:
    """Read a line, without its end."""
    custom_id = None
    try:
        values = _values_of(raw)
        custom_id = _custom_id_of(values)
        return BatchLine(number, custom_id, _url_of(values), _body_of(values))
    except _LineError as error:
        return WrongLine(number, custom_id, error.code, error.message, error.param)


def too_long_line(number: int, max_bytes: int) -> WrongLine:
    """For a line of which nothing was kept."""
    return WrongLine(number, None, "line_too_long", f"The line is longer than {max_bytes} bytes.")


def duplicate_line(line: BatchLine | WrongLine) -> WrongLine:
    """For a line whose custom_id has come before; the error does not carry it, so that each is there once."""
    shown = _shown(line.custom_id or "")
    return WrongLine(line.number, None, "duplicate_custom_id", f"custom_id {shown} has come before.", "custom_id")


def _values_of(raw: bytes) -> dict[str, Any]:
    try:
        return parse_json_object(raw)
    except InvalidRequestError as error:
        message = "The line is no JSON object." if error.code == "invalid_json" else error.message
        raise _LineError(error.code, message.replace("The body", "The line")) from None


def _custom_id_of(values: dict[str, Any]) -> str:
    custom_id = values.get("custom_id")
    if custom_id is None:
        raise _missing("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_CUSTOM_ID_CHARS:
        message = f"custom_id must be a text of 1 to {MAX_CUSTOM_ID_CHARS} characters."
        raise _LineError("invalid_custom_id", message, "custom_id")
    return custom_id


def _url_of(values: dict[str, Any]) -> str:
    for name in ("method", "url"):
        if values.get(name) is None:
            raise _missing(name)
    if values["method"] != "POST":
        raise _LineError("invalid_method", "method must be POST.", "method")
    url = values["url"]
    if not isinstance(url, str) or url not in PATHS:
        raise _LineError("invalid_url", f"url must be one of {', '.join(PATHS)}.", "url")
    return url


def _body_of(values: dict[str, Any]) -> dict[str, Any]:
    body = values.get("body")
    if body is None:
        raise _missing("body")
    if not isinstance(body, dict):
        raise _LineError("invalid_body", "body must be an object.", "body")
    if body.get("stream") is True:
        raise _LineError("unsupported_parameter", "Answers of a batch cannot be streamed.", "body.stream")
    return body


def _missing(name: str) -> _LineError:
    return _LineError("missing_required_parameter", f"Missing required field: {name}.", name)


def _shown(custom_id: str) -> str:
    return repr(custom_id if len(custom_id) <= _MAX_SHOWN_CHARS else custom_id[:_MAX_SHOWN_CHARS] + "…")
