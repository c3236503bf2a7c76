"""From the bytes of a request to a checked pydantic body; shared by all POST endpoints.

JSON is read strictly (no NaN, no lone surrogates, no byte order mark) and scalars keep their type. An explicit null
counts as absent. Errors name the field as a dotted path (`messages.0.content`) and never repeat its value. Fields that
nobody knows are accepted and reported in the `X-Ignored-Params` header.
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

from frontend.errors import UnsupportedMediaTypeError
from frontend.openai.protocol.body import Body
from frontend.openai.unsupported import check_supported
from ipc.errors import InvalidRequestError, UnsupportedParameterError

BodyT = TypeVar("BodyT", bound=Body)

IGNORED_PARAMS_HEADER = "x-ignored-params"
INLINE_BODY_BYTES = 100_000
"""Larger bodies are parsed and checked in a thread, so that nobody waits for them."""
MAX_JSON_NODES = 100_000
"""Most strings (names of fields too), arrays and objects of one body; numbers are cheap and have limits elsewhere."""
MAX_FIELDS = 256
"""Most fields of a body."""

_MAX_IGNORED_NAMES = 20
_CODES = {"extra_forbidden": UnsupportedParameterError.code}
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
        InvalidRequestError: malformed JSON (`invalid_json`), or the first field that is missing or wrong.
    """
    content_type = request.headers.get("content-type")
    if content_type is not None and not _JSON_MEDIA_TYPE.fullmatch(content_type.strip()):
        raise UnsupportedMediaTypeError("The content type must be application/json.")
    raw = await request.body()
    if len(raw) <= INLINE_BODY_BYTES:
        return _checked_body(raw, model)
    async with large_body_slot:
        return await asyncio.to_thread(_checked_body, raw, model)


def _checked_body(raw: bytes, model: type[BodyT]) -> tuple[BodyT, dict[str, str]]:
    values = parse_json_object(raw)
    body = validate_body(model, values)
    check_fields(model, values)
    return body, ignored_params_header(values, model)


def check_fields(model: type[Body], values: dict[str, Any]) -> None:
    """Raise `UnsupportedParameterError` for a known field that this body does not honour."""
    check_supported(values, model.model_fields, model.unsupported_parameters)


def parse_json_object(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object; raises `InvalidRequestError` (`invalid_json`) for anything else, or for too much of it."""
    _check_num_nodes(raw)
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


def ignored_params_header(values: dict[str, Any], model: type[Body]) -> dict[str, str]:
    """The header that lists the fields that nothing reads; empty if there are none."""
    known = model.model_fields.keys() | model.harmless_parameters.keys() | model.unsupported_parameters.keys()
    ignored = sorted(name for name in values.keys() - known if _HEADER_SAFE.fullmatch(name))
    return {IGNORED_PARAMS_HEADER: ", ".join(ignored[:_MAX_IGNORED_NAMES])} if ignored else {}


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
