"""The OpenAPI document: what FastAPI knows of the routes, completed from the table in `openai/operations.py`.

Our endpoints read bodies and build answers themselves, so their schemas, the errors and the API keys are added here.
Used by `app`; served at /openapi.json, which /docs and /redoc show. Invariant: the document promises no more than the
server does: an explicit null is allowed wherever a field may be left out, and 422 is never answered.
"""

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from frontend.access import PUBLIC_ROUTES
from frontend.openai.answers import ErrorEnvelope
from frontend.openai.operations import OPERATIONS, Operation

Document = dict[str, Any]

DESCRIPTION = (
    "An OpenAI-compatible API. Every error has the same envelope, with a stable `code`. Unknown fields of a body are "
    "accepted and named in the header `X-Ignored-Params`, unless the server was started with `--strict-params`; an "
    "explicit null is the same as no value. A connection that sends no proper HTTP, an unknown Host, too large a head "
    "or nothing in time gets 400, 403, 431 or 408 with this envelope on every route, and is closed."
)
_FORM = "multipart/form-data"
_BYTES = {"type": "string", "format": "binary"}
_REF_TEMPLATE = "#/components/schemas/{model}"
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key of this server."},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same, as some send it."},
}
_ERRORS = {
    400: "The request is malformed, or a field is wrong or not supported.",
    401: "The API key is missing or wrong.",
    403: "A web page of another origin may not do this.",
    404: "There is no such route, model, file or batch.",
    409: "It has ended already.",
    413: "The body is too large.",
    415: "The body is not declared as what is read here.",
    429: "Too many requests are waiting.",
    499: "The request was cancelled by its id before there was an answer.",
    500: "Internal error, or the engine failed on this request.",
    503: "The engine is starting, draining or gone.",
    504: "The request ran longer than it may.",
    507: "The disk of the server is full, or fails.",
}
_PATH_PARAMETER = re.compile(r"{(\w+)}")
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
_ERROR_HEADERS = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
_RANGES: dict[str, Document] = {
    "min_tokens": {"minimum": 0},
    "temperature": {"minimum": 0, "maximum": 2},
    "top_p": {"exclusiveMinimum": 0, "maximum": 1},
    "top_k": {"minimum": -1, "maximum": 2**31 - 1},
    "min_p": {"minimum": 0, "maximum": 1},
    "top_n_sigma": {"minimum": 0, "maximum": 100},
    "seed": {"minimum": -(2**63), "maximum": 2**63 - 1},
}
"""Of sampling parameters, which `ipc/sampling_params.py` checks and the bodies' own schemas do not know."""


def body_schema(body_type: type[BaseModel]) -> Document:
    """The `requestBody` of an operation."""
    return {"required": True, "content": {"application/json": {"schema": _reference(body_type)}}}


def install_openapi(app: FastAPI, *, needs_key: bool) -> None:
    """Have the application give the complete document; `needs_key` says whether its routes ask for one."""

    def document() -> Document:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
            for path, operations in schema["paths"].items():
                for method, operation in operations.items():
                    _complete(operation, method, path, needs_key=needs_key)
            components = schema.setdefault("components", {})
            components["schemas"] = {**components.get("schemas", {}), **_schemas()}
            components["securitySchemes"] = _SECURITY_SCHEMES
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _complete(operation: Document, method: str, path: str, *, needs_key: bool) -> None:
    """Add what we know to one operation; one that a user added keeps its own answers."""
    known = OPERATIONS.get((method, path))
    responses = operation.setdefault("responses", {})
    responses.pop("422", None)
    if known is not None:
        operation["summary"] = known.summary
        responses["200"] = _success(known)
    if known is not None and known.body is not None:
        operation["requestBody"] = _request_body(known)
    if known is not None and (parameters := _parameters(known, path)):
        operation["parameters"] = parameters
    is_public = (method.upper(), path) in PUBLIC_ROUTES
    operation["security"] = [] if is_public else [*([] if needs_key else [{}]), {"bearer": []}, {"x-api-key": []}]
    for status in _error_statuses(operation, known, is_public=is_public):
        responses.setdefault(str(status), _error(status, ErrorEnvelope if known is None else known.error))


def _parameters(known: Operation, path: str) -> list[Document]:
    names = _PATH_PARAMETER.findall(path)
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
    if known.query is not None:
        for name, schema in known.query.model_json_schema()["properties"].items():
            description = schema.pop("description", "")
            parameters.append({"name": name, "in": "query", "description": description, "schema": schema})
    return parameters


def _request_body(known: Operation) -> Document:
    assert known.body is not None
    if known.has_file:
        file = {"type": "object", "required": ["file"], "properties": {"file": _BYTES}}
        return {"required": True, "content": {_FORM: {"schema": {"allOf": [_reference(known.body), file]}}}}
    body = body_schema(known.body)
    body["content"]["application/json"]["examples"] = {
        title: {"summary": title, "value": value} for title, value in known.examples.items()
    }
    return body


def _success(known: Operation) -> Document:
    if known.answer is None:
        return {"description": "Success.", "content": {known.media_type: {"schema": _BYTES}}}
    content: Document = {"application/json": {"schema": _reference(known.answer)}}
    if known.event is not None:
        content["text/event-stream"] = {"itemSchema": _event_schema(known, known.event)}
    answer: Document = {"description": "Success.", "content": content}
    if known.body is not None:
        answer["headers"] = {
            "X-Ignored-Params": {"schema": {"type": "string"}, "description": "Fields of the body that nothing reads."}
        }
    return answer


def _event_schema(known: Operation, event: type[BaseModel]) -> Document:
    """One event of a stream (OpenAPI 3.2's `itemSchema`)."""
    if not known.ends_with_done:
        data: Document = {"contentMediaType": "application/json", "contentSchema": _reference(event)}
        description = "The event's fields; its `type` is also the event's name. A failure is one last event."
        return _data_schema(description, data)
    chunk = {"anyOf": [_reference(event), _reference(ErrorEnvelope)]}
    data = {"anyOf": [{"const": "[DONE]"}, {"contentMediaType": "application/json", "contentSchema": chunk}]}
    description = (
        "A chunk, or `[DONE]` when the answer is complete. A failure is one last event with an error envelope instead, "
        "and no `[DONE]`."
    )
    return _data_schema(description, data)


def _data_schema(description: str, data: Document) -> Document:
    data_field = {"type": "string", "description": description, **data}
    return {"type": "object", "required": ["data"], "properties": {"data": data_field}}


def _error_statuses(operation: Document, known: Operation | None, *, is_public: bool) -> list[int]:
    statuses = {500, 503} if known is None or known.needs_model else {500}
    if not is_public:
        statuses |= {401}
    if "requestBody" in operation:
        statuses |= {400, 404, 413, 415, 429, 499, 504}
    if operation.get("parameters"):
        statuses |= {400, 404}
    if known is not None:
        statuses |= set(known.statuses)
    return sorted(statuses)


def _error(status: int, envelope: type[BaseModel]) -> Document:
    answer: Document = {
        "description": _ERRORS[status],
        "content": {"application/json": {"schema": _reference(envelope)}},
    }
    if status in _ERROR_HEADERS:
        answer["headers"] = _ERROR_HEADERS[status]
    return answer


def _schemas() -> Document:
    bodies = {known.body for known in OPERATIONS.values() if known.body is not None}
    possible = (model for known in OPERATIONS.values() for model in (known.answer, known.event))
    answers = {model for model in possible if model is not None}
    errors: set[type[BaseModel]] = {ErrorEnvelope, *(known.error for known in OPERATIONS.values())}
    schemas = {**_schemas_of(answers | errors), **_schemas_of(bodies)}
    for body in _schemas_of(bodies):
        _describe_as_read(schemas[body])
    return schemas


def _schemas_of(models: set[type[BaseModel]]) -> Document:
    ordered = sorted(models, key=lambda model: model.__name__)
    _, schemas = models_json_schema([(model, "validation") for model in ordered], ref_template=_REF_TEMPLATE)
    definitions: Document = schemas["$defs"]
    return definitions


def _describe_as_read(schema: Document) -> None:
    """Add the ranges of sampling parameters, and null wherever a field may be absent."""
    required = set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        ranges = _RANGES.get(name, {})
        for part in field.get("anyOf", [field]):
            if part.get("type") in ("integer", "number"):
                part.update(ranges)
        if name not in required and {"type": "null"} not in field.get("anyOf", ()):
            described = {key: field.pop(key) for key in ("title", "description", "default") if key in field}
            alternatives = field.pop("anyOf", None) or [dict(field)]
            field.clear()
            field.update({"anyOf": [*alternatives, {"type": "null"}], **described})


def _reference(model: type[BaseModel]) -> Document:
    return {"$ref": _REF_TEMPLATE.format(model=model.__name__)}
