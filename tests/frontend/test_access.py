"""API keys: every route but the probes asks for one, however its path is spelled."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Message

from frontend.access import ANYBODY, PUBLIC_ROUTES, ApiKeyMiddleware, ApiKeys, caller_of, require_admin
from frontend.app import create_app
from frontend.state import FrontendState
from frontend.webui import WebUI
from ipc.api_keys import digests_of, key_id
from ipc.client import EngineClient
from ipc.config import AccessConfig, FrontendConfig
from ipc.messages import ClientRole

KEYS = {"api_key": ("one", "two"), "admin_api_key": ("root",)}


def app_with(tmp_path: Path, **settings: Any) -> FastAPI:
    """An application whose core never comes, with a control route."""
    client = EngineClient(tmp_path / "core.sock", name="frontend-0", role=ClientRole.FRONTEND)
    app = create_app(FrontendState(FrontendConfig(**settings), client, created_at=1))

    @app.post("/control", dependencies=[Depends(require_admin)])
    async def control() -> str:
        return "done"

    @app.get("/me")
    async def me(request: Request) -> dict[str, Any]:
        caller = caller_of(request)
        return {"key_id": caller.key_id, "is_admin": caller.is_admin}

    return app


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as http,
    ):
        yield http


def ask(tmp_path: Path, method: str, path: str, headers: dict[str, Any] | None = None, **settings: Any):
    async def run() -> httpx.Response:
        async with client_of(app_with(tmp_path, **settings)) as http:
            return await http.request(method, path, headers=headers)

    return asyncio.run(run())


def test_every_route_but_probes_and_static_files_asks_for_a_key(tmp_path: Path):
    public_routes = PUBLIC_ROUTES | WebUI().public_routes

    async def run() -> None:
        app = app_with(tmp_path, **KEYS)
        routes = [(method, r.path) for r in app.routes if isinstance(r, Route) for method in r.methods or ()]
        assert {("POST", "/v1/completions"), ("GET", "/openapi.json"), ("GET", "/docs")} <= set(routes)
        async with client_of(app) as http:
            for method, path in routes:
                answer = await http.request(method, path.replace("{model_id:path}", "m"))
                assert (answer.status_code == 401) == ((method, path) not in public_routes), (method, path)

    asyncio.run(run())


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "TRACE"])
def test_what_is_no_route_is_protected_as_well(tmp_path: Path, method: str):
    answer = ask(tmp_path, method, "/nothing", **KEYS)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("name", ["Authorization", "authorization", "x-api-key", "X-Api-Key"])
@pytest.mark.parametrize(
    ("key", "is_right"), [("one", True), ("two", True), ("root", True), ("on", False), ("one1", False), ("", False)]
)
def test_a_key_opens_in_both_headers(tmp_path: Path, name: str, key: str, is_right: bool):
    value = f"Bearer {key}" if name.lower() == "authorization" else key
    assert (ask(tmp_path, "GET", "/version", {name: value}, **KEYS).status_code == 200) == is_right


@pytest.mark.parametrize(
    "value",
    [
        "one",
        "Basic one",
        "bearer",
        "Bearer",
        "Bearer one two",
        "Bearer one,two",
        b"Bearer \xff\xe9",
        b"Bearer \xc3\xa9",
    ],
)
def test_any_other_authorization_is_401(tmp_path: Path, value: str | bytes):
    assert ask(tmp_path, "GET", "/version", {"authorization": value}, **KEYS).status_code == 401


def test_a_digest_is_no_key(tmp_path: Path):
    (digest,) = digests_of(["one"])
    assert ask(tmp_path, "GET", "/version", {"x-api-key": digest}, **KEYS).status_code == 401


def test_keys_are_not_in_the_answer(tmp_path: Path):
    answer = ask(tmp_path, "GET", "/version", {"x-api-key": "a-wrong-secret"}, **KEYS)
    assert "secret" not in answer.text + str(answer.headers)


def path_status(path: str, method: str = "GET", root_path: str = "", headers: tuple[tuple[bytes, bytes], ...] = ()):
    """Status for a path as the server hands it over, decoded; the application behind answers 204 to anything."""
    sent: list[Message] = []

    async def anything(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})

    async def receive() -> Message:
        raise AssertionError("nothing is read before the key is known")

    async def send(message: Message) -> None:
        sent.append(message)

    middleware = ApiKeyMiddleware(anything, config=AccessConfig(api_key=("one",)))
    scope = {"type": "http", "method": method, "path": path, "root_path": root_path, "headers": list(headers)}
    asyncio.run(middleware(scope, receive, send))
    return sent[0]["status"]


@pytest.mark.parametrize(
    "path",
    [
        "//health",
        "/health/",
        "/health/live/",
        "/health/../v1/models",
        "/v1/../health",
        "/./health",
        "/HEALTH",
        "/health\x00",
        "/health?",
        "/health;",
        "/health#",
        "health",
        "",
        "/",
        "*",
        "http://x/health",
        "/ping\n",
        "/%68ealth",
    ],
)
def test_only_the_exact_path_of_a_probe_is_open(path: str):
    assert path_status(path) == 401


def test_other_methods_of_a_probe_are_not_open():
    assert [path_status("/health", method) for method in ("GET", "HEAD", "POST", "OPTIONS")] == [204, 204, 401, 401]


def test_a_path_is_taken_below_the_prefix_of_a_proxy():
    assert path_status("/api/health", root_path="/api") == 204
    assert path_status("/apihealth", root_path="/api") == 401
    assert path_status("/api/v1/models", root_path="/api") == 401
    assert path_status("/health/v1/models", root_path="/health") == 401


def test_the_host_header_opens_nothing():
    assert path_status("/v1/models", headers=((b"host", b"x/health?"),)) == 401


def test_a_websocket_without_a_key_is_closed():
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    middleware = ApiKeyMiddleware(FastAPI(), config=AccessConfig(api_key=("one",)))
    scope = {"type": "websocket", "path": "/health", "headers": []}
    asyncio.run(middleware(scope, send, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


# --- what a key is ------------------------------------------------------------------------------------------------


def caller(config: AccessConfig, **headers: str):
    return ApiKeys(config).caller(Headers({name.replace("_", "-"): value for name, value in headers.items()}))


def test_a_key_is_the_flow_whatever_the_body_says():
    (digest,) = digests_of(["one"])
    found = caller(AccessConfig(api_key=("one",)), x_api_key="one")
    assert found.flow("somebody else") == key_id(digest)


def test_without_keys_the_user_is_the_flow():
    found = caller(AccessConfig(), authorization="Bearer any")
    assert found is ANYBODY
    assert (found.flow("alice"), found.cache_salt("salt")) == ("alice", "salt")


def test_isolated_keys_cannot_take_each_others_salt():
    config = AccessConfig(api_key=("one", "two"), isolate_cache_by_key=True)
    one, two = caller(config, x_api_key="one"), caller(config, x_api_key="two")
    assert one.cache_salt("") != two.cache_salt("")
    assert one.cache_salt(two.cache_salt("")) != two.cache_salt("")


def test_without_isolation_the_salt_is_that_of_the_body():
    assert caller(AccessConfig(api_key=("one",)), x_api_key="one").cache_salt("a") == "a"


def test_of_two_keys_the_right_one_counts():
    assert caller(AccessConfig(api_key=("one",)), authorization="Bearer wrong", x_api_key="one") is not None
    assert caller(AccessConfig(api_key=("one",)), authorization="Bearer one", x_api_key="wrong") is not None


# --- control routes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "status"), [("root", 200), ("one", 403), ("none", 401)])
def test_a_control_route_opens_to_an_admin_key_alone(tmp_path: Path, key: str, status: int):
    assert ask(tmp_path, "POST", "/control", {"x-api-key": key}, **KEYS).status_code == status


@pytest.mark.parametrize("settings", [{}, {"api_key": ("one",)}])
def test_without_an_admin_key_nobody_controls(tmp_path: Path, settings: dict[str, Any]):
    answer = ask(tmp_path, "POST", "/control", {"x-api-key": "one"}, **settings)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "admin_key_required")


def test_an_admin_key_alone_leaves_the_other_routes_open(tmp_path: Path):
    assert ask(tmp_path, "GET", "/me", admin_api_key=("root",)).json() == {"key_id": "", "is_admin": False}
    assert ask(tmp_path, "GET", "/me", {"x-api-key": "root"}, admin_api_key=("root",)).json()["is_admin"]
    assert ask(tmp_path, "POST", "/control", {"x-api-key": "root"}, admin_api_key=("root",)).status_code == 200
