"""Errors of Anthropic's routes, in an application that makes them in every place."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from frontend.anthropic_api.error_envelope import AnthropicEnvelopeMiddleware
from frontend.errors import error_response, json_response
from frontend.middleware import RequestContextMiddleware
from ipc.errors import FastInferenceError, InvalidRequestError, ModelNotFoundError, QueueFullError


async def broken(_: Request) -> Response:
    raise KeyError("secret")


async def refused(request: Request) -> Response:
    return error_response(ERRORS[request.query_params["error"]])


async def fine(_: Request) -> Response:
    return json_response({"fine": True})


async def in_pieces(_: Request) -> Response:
    whole = error_response(ERRORS["invalid"]).body
    return StreamingResponse(iter([whole[:9], whole[9:]]), 400, media_type="application/json")


ERRORS: dict[str, FastInferenceError] = {
    "invalid": InvalidRequestError("top_k: no", param="top_k"),
    "model": ModelNotFoundError("The model x does not exist.", param="model"),
    "queue": QueueFullError("full", retry_after_s=3),
}


def call(path: str) -> httpx.Response:
    routes = [
        Route("/v1/messages/broken", broken),
        Route("/v1/messages/fine", fine),
        Route("/v1/messages/in_pieces", in_pieces),
        Route("/v1/messages", refused),
        Route("/v1/messagesx", refused),
    ]
    middlewares = [Middleware(AnthropicEnvelopeMiddleware), Middleware(RequestContextMiddleware)]
    app = Starlette(routes=routes, middleware=middlewares)

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            return await http.get(path, headers={"x-request-id": "id-1"})

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "status", "error_type", "param"),
    [
        ("invalid", 400, "invalid_request_error", "top_k"),
        ("model", 404, "not_found_error", "model"),
        ("queue", 429, "rate_limit_error", None),
    ],
)
def test_errors_have_anthropics_envelope(error, status, error_type, param):
    response = call(f"/v1/messages?error={error}")
    original = ERRORS[error]
    assert response.status_code == status
    assert response.json() == {
        "type": "error",
        "error": {"type": error_type, "message": original.message, "param": param, "code": original.code},
        "request_id": "id-1",
    }


def test_headers_of_an_error_stay():
    assert call("/v1/messages?error=queue").headers["retry-after"] == "3"


def test_unforeseen_errors_too():
    response = call("/v1/messages/broken")
    assert (response.status_code, response.json()["error"]["type"]) == (500, "api_error")


def test_an_error_in_pieces_too():
    assert call("/v1/messages/in_pieces").json()["error"]["param"] == "top_k"


def test_other_routes_keep_theirs():
    assert set(call("/v1/messagesx?error=invalid").json()) == {"error"}


def test_answers_without_an_error_pass_and_carry_the_request_id():
    response = call("/v1/messages/fine")
    assert (response.json(), response.headers["request-id"]) == ({"fine": True}, "id-1")
