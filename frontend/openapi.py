"""The OpenAPI document: our endpoints read their bodies themselves, so the bodies' schemas are added here.

Used by `app`; served at /openapi.json, which /docs and /redoc show.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from frontend.anthropic_api.protocol import CountTokensRequest, MessagesRequest
from frontend.openai.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
)
from frontend.responses_api.protocol import ResponsesRequest

_BODIES: tuple[type[BaseModel], ...] = (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    TokenizeRequest,
    DetokenizeRequest,
    ResponsesRequest,
    MessagesRequest,
    CountTokensRequest,
)
_REF_TEMPLATE = "#/components/schemas/{model}"


def body_schema(body_type: type[BaseModel]) -> dict[str, Any]:
    """The `requestBody` of an operation."""
    reference = {"$ref": _REF_TEMPLATE.format(model=body_type.__name__)}
    return {"required": True, "content": {"application/json": {"schema": reference}}}


def install_openapi(app: FastAPI) -> None:
    """Have the application's document contain the schemas of all bodies and of the error envelope."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            _, bodies = models_json_schema([(body, "validation") for body in _BODIES], ref_template=_REF_TEMPLATE)
            schema.setdefault("components", {}).setdefault("schemas", {}).update(bodies["$defs"])
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
