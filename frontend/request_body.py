"""From the bytes of a request to a checked pydantic body; shared by all POST endpoints.

JSON is read strictly (no NaN, no lone surrogates, no byte order mark, at most 64 levels) and scalars keep their type;
of a key that is there twice the last value counts. An explicit null counts as absent. Errors name the field as a dotted
path (`messages.0.content`) and never repeat its value. Fields that nobody knows (`unknown_fields.py`) are accepted and
reported in the `X-Ignored-Params` header; with `--strict-params` they are refused.
Invariant: no body keeps the event loop for long: large ones are read in a thread, one at a time, because parsing holds
the interpreter lock, and what is built from them has a limit. Next: `openai/protocol/`, the bodies themselves.
"""

import asyncio
import re
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from frontend.edge import edge_settings
from frontend.errors import UnsupportedMediaTypeError
from frontend.json_depth import MAX_JSON_DEPTH, is_too_deep
from frontend.openai.protocol.body import UNSUPPORTED, Body
from frontend.openai.unsupported import check_supported
from frontend.unknown_fields import unknown_fields
from ipc.errors import InvalidRequestError, UnsupportedParameterError

BodyT = TypeVar("BodyT", bound=Body)

IGNORED_PARAMS_HEADER = "x-ignored-params"
INLINE_BODY_BYTES = 100_000
"""Larger bodies are parsed and checked in a thread, so that nobody waits for them."""
MAX_JSON_NODES = 100_000
"""Most strings (names of fields too), arrays and objects of one body; numbers are cheap and have limits elsewhere."""
MAX_FIELDS = 256
"""Most fields of a body."""

_CODES = {"extra_forbidden": UnsupportedParameterError.code, UNSUPPORTED: UnsupportedParameterError.code}
_JSON_NODE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]', re.DOTALL)
_JSON_MEDIA_TYPE = re.compile(r"application/(json|[a-z0-9.+-]+\+json)\s*(;.*)?", re.IGNORECASE)
_HEADER_SAFE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


async def read_body(
    request: Request, model: type[BodyT], large_body_slot: asyncio.Semaphore
) -> tuple[BodyT, dict[str, str]]:
    """Read and check the body; also returns the response headers that report ignored fields.

    Raises:
        UnsupportedMediaTypeError: the content type is given and is not JSON.
        UnsupportedParameterError: a known field that is not honoured has a value that would matter.
        InvalidRequestError: malformed JSON (`invalid_json`), the first field that is missing or wrong, or with
            `--strict-params` one that nobody knows (`unknown_parameter`).
    """
    content_type = request.headers.get("content-type")
    if content_type is not None and not _JSON_MEDIA_TYPE.fullmatch(content_type.strip()):
        raise UnsupportedMediaTypeError("The content type must be application/json.")
    raw = await request.body()
    is_strict = edge_settings(request.scope).strict_params
    if len(raw) <= INLINE_BODY_BYTES:
        return _checked_body(raw, model, is_strict)
    async with large_body_slot:
        return await asyncio.to_thread(_checked_body, raw, model, is_strict)


def _checked_body(raw: bytes, model: type[BodyT], is_strict: bool) -> tuple[BodyT, dict[str, str]]:
    return checked_body(parse_json_object(raw), model, is_strict=is_strict)


def checked_body(values: dict[str, Any], model: type[BodyT], *, is_strict: bool) -> tuple[BodyT, dict[str, str]]:
    """The body with these values, and the response headers that report ignored fields; raises as `read_body` does."""
    body = validate_body(model, values)
    check_fields(model, values)
    ignored = ignored_params(values, model)
    if is_strict and ignored:
        raise _unknown_parameter(ignored[0])
    return body, ignored_params_header(ignored)


def check_fields(model: type[Body], values: dict[str, Any]) -> None:
    """Raise `UnsupportedParameterError` for a known field that this body does not honour."""
    check_supported(values, model.model_fields, model.unsupported_parameters)


def parse_json_object(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object; raises `InvalidRequestError` (`invalid_json`) for anything else, or for too much of it."""
    _check_num_nodes(raw)
    if is_too_deep(raw):
        raise InvalidRequestError(f"The body nests deeper than {MAX_JSON_DEPTH} levels.", code="json_too_deep")
    try:
        values = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"The body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(values, dict):
        raise InvalidRequestError("The body must be a JSON object.", code="invalid_json")
    if len(values) > MAX_FIELDS:
        raise InvalidRequestError(f"The body has more than {MAX_FIELDS} fields.")
    return values


def _check_num_nodes(raw: bytes) -> None:
    """Refuse what would become too many objects in memory, before any of them is made."""
    if raw.count(b'"') // 2 + raw.count(b"[") + raw.count(b"{") <= MAX_JSON_NODES:
        return
    for count, _ in enumerate(_JSON_NODE.finditer(raw)):  # quotes and brackets inside of strings do not count
        if count >= MAX_JSON_NODES:
            raise InvalidRequestError(f"The body has more than {MAX_JSON_NODES} strings, arrays and objects.")


def validate_body(model: type[BodyT], values: dict[str, Any]) -> BodyT:
    """Check the values against the model; raises `InvalidRequestError` for the first wrong field."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise _invalid_field(values, details) from None


def ignored_params(values: dict[str, Any], model: type[Body]) -> list[str]:
    """The fields of a body that nothing reads and whose names we do not know from the APIs that we follow."""
    known = frozenset(model.harmless_parameters) | model.unsupported_parameters.keys()
    return unknown_fields(values, model, known)


def ignored_params_header(names: list[str]) -> dict[str, str]:
    """The header that lists the fields that nothing reads; empty if there are none that a header can name."""
    safe = [name for name in names if _HEADER_SAFE.fullmatch(name)]
    return {IGNORED_PARAMS_HEADER: ", ".join(safe)} if safe else {}


def _unknown_parameter(name: str) -> InvalidRequestError:
    is_safe = _HEADER_SAFE.fullmatch(name) is not None
    shown = f": {name}" if is_safe else ""
    return InvalidRequestError(f"Unknown parameter{shown}.", param=name if is_safe else None, code="unknown_parameter")


def _invalid_field(values: dict[str, Any], details: list[ErrorDetails]) -> InvalidRequestError:
    """The error whose path goes deepest: of a union's alternatives that is the one that was meant."""
    paths = [_field_path(values, detail["loc"], is_missing=detail["type"] == "missing") for detail in details]
    path, detail = max(zip(paths, details, strict=True), key=lambda pair: len(pair[0]))
    param = ".".join(path)
    if detail["type"] == "missing":
        return InvalidRequestError(f"Missing required field: {param}.", param=param, code="missing_required_parameter")
    message = detail["msg"].removeprefix("Value error, ")
    code = _CODES.get(detail["type"], "invalid_type" if detail["type"].endswith("_type") else "invalid_value")
    return InvalidRequestError(f"{param}: {message}", param=param or None, code=code)


def _field_path(values: object, location: tuple[int | str, ...], *, is_missing: bool) -> list[str]:
    """Pydantic's location without the names of union alternatives, which are no part of the body."""
    path: list[str] = []
    for depth, step in enumerate(location):
        match values, step:
            case dict(), _ if step in values:
                values = values[step]
            case list(), int() if step < len(values):
                values = values[step]
            case _ if not (is_missing and depth == len(location) - 1):
                continue
        path.append(str(step))
    return path
