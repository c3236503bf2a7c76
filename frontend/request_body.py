"""From the bytes of a request to a checked pydantic body; shared by all POST endpoints.

JSON is read strictly (no NaN, no lone surrogates, no byte order mark) and scalars keep their type. An explicit null
counts as absent. Errors name the field as a dotted path (`messages.0.content`) and never repeat its value. Fields that
nobody knows are accepted and reported in the `X-Ignored-Params` header.
Next: `openai/protocol.py`, the bodies themselves.
"""

import re
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request

from frontend.errors import UnsupportedMediaTypeError
from frontend.openai.unsupported import HARMLESS_PARAMETERS, UNSUPPORTED_PARAMETERS, check_supported
from ipc.errors import InvalidRequestError

BodyT = TypeVar("BodyT", bound=BaseModel)

IGNORED_PARAMS_HEADER = "x-ignored-params"
_MAX_IGNORED_NAMES = 20
_JSON_MEDIA_TYPE = re.compile(r"application/(json|[a-z0-9.+-]+\+json)\s*(;.*)?", re.IGNORECASE)
_HEADER_SAFE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


async def read_body(request: Request, model: type[BodyT]) -> tuple[BodyT, dict[str, str]]:
    """Read and check the body; also returns the response headers that report ignored fields.

    Raises:
        UnsupportedMediaTypeError: the content type is given and is not JSON.
        UnsupportedParameterError: a known field that is not honoured has a value that would matter.
        InvalidRequestError: malformed JSON (`invalid_json`), or the first field that is missing or wrong.
    """
    content_type = request.headers.get("content-type")
    if content_type is not None and not _JSON_MEDIA_TYPE.fullmatch(content_type.strip()):
        raise UnsupportedMediaTypeError("The content type must be application/json.")
    values = parse_json_object(await request.body())
    body = validate_body(model, values)
    check_supported(values, set(model.model_fields))
    return body, ignored_params_header(values, model)


def parse_json_object(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object; raises `InvalidRequestError` (`invalid_json`) for anything else."""
    try:
        values = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"The body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(values, dict):
        raise InvalidRequestError("The body must be a JSON object.", code="invalid_json")
    return values


def validate_body(model: type[BodyT], values: dict[str, Any]) -> BodyT:
    """Check the values against the model; raises `InvalidRequestError` for the first wrong field."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        raise _invalid_field(values, details) from None


def ignored_params_header(values: dict[str, Any], model: type[BaseModel]) -> dict[str, str]:
    """The header that lists the fields that nothing reads; empty if there are none."""
    known = model.model_fields.keys() | HARMLESS_PARAMETERS | UNSUPPORTED_PARAMETERS.keys()
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
    code = "invalid_type" if detail["type"].endswith("_type") else "invalid_value"
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
