"""The application without a core: routes, envelope, limits, and 503 for everything that needs the engine."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from frontend.app import create_app
from frontend.state import FrontendState
from ipc.client import EngineClient
from ipc.config import FrontendConfig
from ipc.messages import ClientRole

JSON = {"content-type": "application/json"}
ENGINE_ROUTES = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/score"),
    ("POST", "/score"),
    ("POST", "/v1/rerank"),
    ("POST", "/v2/rerank"),
    ("POST", "/rerank"),
    ("POST", "/v1/tokenize"),
    ("POST", "/tokenize"),
    ("POST", "/v1/detokenize"),
    ("POST", "/detokenize"),
    ("GET", "/load"),
    ("GET", "/server_info"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/org/name"),
]


def call(tmp_path: Path, method: str, path: str, *, max_body_bytes: int = 2048, **options: Any) -> httpx.Response:
    """One request to an application whose core never comes."""

    async def run() -> httpx.Response:
        config = FrontendConfig(max_body_bytes=max_body_bytes)
        client = EngineClient(tmp_path / "core.sock", name="frontend-0", role=ClientRole.FRONTEND)
        app = create_app(FrontendState(config, client, created_at=1))

        @app.get("/broken")
        async def broken() -> None:
            raise KeyError("secret")

        @app.get("/number/{number}")
        async def number(number: int) -> int:
            return number

        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x") as http,
        ):
            return await http.request(method, path, **options)

    return asyncio.run(run())


def error_of(response: httpx.Response) -> dict[str, Any]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code", "status"}
    assert error["status"] == response.status_code
    return dict(error)


@pytest.mark.parametrize(("method", "path"), ENGINE_ROUTES)
def test_without_a_core_everything_is_503_with_retry_after(tmp_path: Path, method: str, path: str):
    response = call(tmp_path, method, path)
    assert response.status_code == 503
    assert error_of(response)["code"] == "engine_unavailable"
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize(("method", "path"), [("GET", "/health"), ("GET", "/ping"), ("POST", "/ping")])
def test_without_a_core_readiness_says_why(tmp_path: Path, method: str, path: str):
    response = call(tmp_path, method, path)
    assert response.status_code == 503
    assert response.json()["status"] == "starting"
    assert error_of(response)["code"] == "engine_unavailable"


@pytest.mark.parametrize("path", ["/health/live", "/version", "/docs", "/redoc"])
def test_without_a_core_the_process_still_answers(tmp_path: Path, path: str):
    assert call(tmp_path, "GET", path).status_code == 200


def test_a_wrong_method_names_the_methods_of_all_routes_with_this_path(tmp_path: Path):
    assert call(tmp_path, "DELETE", "/ping").headers["allow"] == "GET, HEAD, POST"


def test_the_openapi_document_describes_the_bodies(tmp_path: Path):
    document = call(tmp_path, "GET", "/openapi.json").json()
    operation = document["paths"]["/v1/chat/completions"]["post"]
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert "messages" in document["components"]["schemas"][reference.rsplit("/", 1)[-1]]["properties"]
    names = [item["operationId"] for path in document["paths"].values() for item in path.values()]
    assert len(names) == len(set(names))


def test_an_unknown_route_is_404(tmp_path: Path):
    response = call(tmp_path, "GET", "/v1/nothing")
    assert (response.status_code, error_of(response)["code"]) == (404, "not_found")


def test_a_wrong_method_is_405_and_names_the_right_one(tmp_path: Path):
    response = call(tmp_path, "GET", "/v1/completions")
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


def test_a_declared_body_over_the_limit_is_413(tmp_path: Path):
    response = call(tmp_path, "POST", "/v1/completions", content=b"x" * 2049, headers=JSON)
    assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")
    assert response.headers["connection"] == "close"


def test_an_unforeseen_error_is_a_generic_500(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    response = call(tmp_path, "GET", "/broken")
    assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert "KeyError" in caplog.text


def test_an_added_route_never_answers_422(tmp_path: Path):
    response = call(tmp_path, "GET", "/number/x")
    assert (response.status_code, error_of(response)["param"]) == (400, "number")


@pytest.mark.parametrize("given", ["abc-1.2_3", "x" * 128])
def test_a_harmless_request_id_comes_back(tmp_path: Path, given: str):
    response = call(tmp_path, "GET", "/health/live", headers={"x-request-id": given})
    assert response.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é", "a\tb"])
def test_any_other_request_id_is_replaced(tmp_path: Path, given: str):
    response = call(tmp_path, "GET", "/nothing", headers={"x-request-id": given.encode()})
    assert response.headers["x-request-id"] not in ("", given)


def test_each_request_leaves_one_access_line(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "frontend.access")
    call(tmp_path, "GET", "/a%0Ab", headers={"x-request-id": "id-1"})
    (line,) = [record.getMessage() for record in caplog.records if record.name == "frontend.access"]
    assert line.startswith("GET /a\\nb 404 ")
    assert line.endswith(" id-1")
