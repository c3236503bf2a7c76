"""The lines of the two output files, in OpenAI's shape.

    {"id", "custom_id", "response": {"status_code", "request_id", "body"}, "error": null}
    {"id", "custom_id", "response": null, "error": {"code", "message", "param", "line"}}

The second is for a line that is no request; a request that was refused or failed has the first shape, with the status
and the body that HTTP would have given. Invariant: what `read_result_line` reads is what the others wrote.
"""

import uuid
from dataclasses import dataclass
from typing import Any, TypeGuard

import orjson

from frontend.batch.lines import WrongLine

LINE_BEGIN = b'{"id":"batch_req_'
"""Of every line."""
_OK = 200


@dataclass(frozen=True, slots=True)
class LineResult:
    """What became of a request."""

    custom_id: str
    request_id: str
    status_code: int
    body: dict[str, Any]
    """The answer, or the envelope of an error."""

    @property
    def is_ok(self) -> bool:
        """True for an answer."""
        return self.status_code == _OK


@dataclass(frozen=True, slots=True)
class DoneLine:
    """What a line of an output file says about the input."""

    custom_id: str | None
    line_number: int
    """Of the input, where the line was no request; else 0."""
    is_ok: bool


def result_line(result: LineResult | WrongLine) -> bytes:
    """A line of the output file for an answer, else of the error file."""
    if isinstance(result, WrongLine):
        return wrong_line(result)
    response = {"status_code": result.status_code, "request_id": result.request_id, "body": result.body}
    return _line(result.custom_id, response, None)


def wrong_line(wrong: WrongLine) -> bytes:
    """A line of the error file."""
    error = {"code": wrong.code, "message": wrong.message, "param": wrong.param, "line": wrong.number}
    return _line(wrong.custom_id, None, error)


def is_answer(result: LineResult | WrongLine) -> TypeGuard[LineResult]:
    """True for what belongs into the output file, False for what belongs into the error file."""
    return isinstance(result, LineResult) and result.is_ok


def read_result_line(raw: bytes) -> DoneLine:
    """What a line says; raises `ValueError` for anything that no job has written."""
    values = orjson.loads(raw)
    if not isinstance(values, dict) or not {"custom_id", "response", "error"} <= values.keys():
        raise ValueError("no result of a batch job")
    custom_id, response, error = values["custom_id"], values["response"], values["error"]
    if custom_id is not None and not isinstance(custom_id, str):
        raise ValueError("no result of a batch job")
    line_number = error.get("line") if isinstance(error, dict) else None
    status = response.get("status_code") if isinstance(response, dict) else None
    return DoneLine(custom_id, line_number if isinstance(line_number, int) else 0, status == _OK)


def _line(custom_id: str | None, response: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
    values = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": custom_id, "response": response, "error": error}
    return orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)
