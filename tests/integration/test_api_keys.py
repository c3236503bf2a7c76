"""A server that asks for keys, as real processes: what opens it, and where its keys can be seen."""

import re
import socket
import stat
import urllib.parse
from pathlib import Path

import openai
import pytest
from fastapi import FastAPI
from starlette.routing import Route

from frontend.access import PUBLIC_ROUTES
from frontend.app import create_app
from frontend.state import FrontendState
from frontend.webui import WebUI
from ipc.client import EngineClient
from ipc.config import FrontendConfig
from ipc.messages import ClientRole
from tests.servers import Server

KEY, FILE_KEY, ADMIN_KEY = "sk-environment-7f3a", "sk-file-91bc", "sk-admin-55de"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A key from the environment, one from a file, an admin key; caches are isolated; debug logging."""
    folder = tmp_path_factory.mktemp("keys")
    file = folder / "keys"
    file.write_text(f"# for a test\n{FILE_KEY}\n")
    (folder / "run").mkdir(mode=0o755)
    flags = ["--api-key-file", str(file), "--isolate-cache-by-key", "--log-level", "debug", "--frontends", "1"]
    environment = {"FAST_INFERENCE_API_KEY": KEY, "FAST_INFERENCE_ADMIN_API_KEY": ADMIN_KEY}
    server = Server(folder, "fake", *flags, **environment)
    yield server
    server.close()


def client(server: Server, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=30)


@pytest.mark.parametrize("key", [KEY, FILE_KEY, ADMIN_KEY], ids=["environment", "file", "admin"])
def test_the_real_client_gets_in_with_each_key(server, key):
    with client(server, key) as api:
        assert api.models.list().data


def test_the_real_client_is_told_that_its_key_is_wrong(server):
    with client(server, "sk-wrong") as api, pytest.raises(openai.AuthenticationError) as caught:
        api.models.list()
    assert caught.value.code == "invalid_api_key"


def status_of(server, line: str, *headers: str) -> int:
    """The answer to a request line exactly as it is here."""
    host, port = server.url.removeprefix("http://").split(":")
    lines = [line, *(headers or ("host: x",)), "connection: close", "", ""]
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall("\r\n".join(lines).encode())
        return int(connection.recv(12)[9:])


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models",
        "//v1/models",
        "/v1/models/",
        "/v1//models",
        "/health/../v1/models",
        "/health/%2e%2e/v1/models",
        "/health%2f..%2fv1/models",
        "/%76%31/models",
        "/v1/models?x=/health",
        "/v1/models#/health",
        "/v1/models;/health",
        "/docs",
        "/openapi.json",
        "/tokenize",
        "/nothing",
        "http://x/v1/models",
    ],
)
def test_no_spelling_of_a_path_gets_in_without_a_key(server, target):
    assert status_of(server, f"GET {target} HTTP/1.1") in (400, 401)


@pytest.mark.parametrize("host", ["a/health/live?", "a/health", "a/health/live#", "health?x=/"])
def test_no_host_gets_in_without_a_key(server, host):
    assert status_of(server, "GET /v1/models HTTP/1.1", f"host: {host}") == 400


@pytest.mark.parametrize("header", ["x-forwarded-prefix: /health", "x-original-url: /health", "x-http-method: HEAD"])
def test_no_header_gets_in_without_a_key(server, header):
    assert status_of(server, "GET /v1/models HTTP/1.1", "host: x", header) == 401


def routes() -> list[tuple[str, str]]:
    """Method and path of every route, with something for each parameter."""
    client = EngineClient(Path("/nowhere"), name="test", role=ClientRole.FRONTEND)
    app = create_app(FrontendState(FrontendConfig(), client, created_at=0))
    paths = [(route.methods or set(), re.sub(r"\{[^}]*\}", "x", route.path)) for route in routes_of(app)]
    return sorted({(method, path) for methods, path in paths for method in methods})


def routes_of(app: FastAPI) -> list[Route]:
    found = [route for route in app.routes if isinstance(route, Route)]
    assert len(found) == len(app.routes), "a route of another kind is not looked at"
    return found


@pytest.mark.parametrize(
    "spelling",
    [
        lambda path: path,
        lambda path: "/" + path,
        lambda path: path + "/",
        lambda path: "/v1/.." + path,
        lambda path: "/health/live/.." + path,
        lambda path: "/health/%2e%2e" + path,
        lambda path: "/%2e" + path,
        lambda path: path.replace("/", "/./", 1),
        lambda path: f"/%{ord(path[1]):02x}{path[2:]}" if path != "/" else path,
        lambda path: path + "?/health/live",
    ],
)
def test_every_route_asks_for_a_key_whatever_its_spelling(server, spelling):
    answers = {}
    public_routes = PUBLIC_ROUTES | WebUI().public_routes
    for method, path in routes():
        line = f"{method} {spelling(path)} HTTP/1.1"
        is_public = (method, urllib.parse.unquote(spelling(path)).partition("?")[0]) in public_routes
        answers[line] = (status_of(server, line, "host: x", "content-length: 0"), 200 if is_public else 401)
    assert len(answers) > 30
    assert {line: status for line, (status, expected) in answers.items() if status != expected} == {}


def test_probes_need_no_key(server):
    for line in ("GET /health", "HEAD /health", "GET /health/live", "GET /ping", "POST /ping"):
        assert status_of(server, f"{line} HTTP/1.1", "host: x", "content-length: 0") == 200


WORDS = "the same words " * 20
MESSAGES = [{"role": "user", "content": WORDS}]


def cached_tokens(server, path: str, body: dict[str, object], key: str) -> int:
    """How many tokens of the prompt came from the cache, wherever the API says so."""
    with server.http() as http:
        usage = http.post(path, json={"model": "fake", **body}, headers={"x-api-key": key}).json()["usage"]
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    tokens: int = details["cached_tokens"] if details else usage["cache_read_input_tokens"]
    return tokens


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": WORDS, "max_tokens": 1}),
        ("/v1/chat/completions", {"messages": [{"role": "system", "content": "chat"}, *MESSAGES], "max_tokens": 1}),
        ("/v1/responses", {"input": WORDS, "instructions": "responses", "max_output_tokens": 16}),
        ("/v1/messages", {"messages": MESSAGES, "system": "messages", "max_tokens": 1}),
    ],
    ids=["completions", "chat", "responses", "messages"],
)
def test_no_key_finds_the_prefixes_of_another(server, path, body):
    first, again, other, other_again = (cached_tokens(server, path, body, k) for k in (KEY, KEY, FILE_KEY, FILE_KEY))
    assert again > first
    assert other == first
    assert other_again == again


def test_keys_are_nowhere_to_be_seen(server):
    with client(server, "sk-wrong-0000") as api, pytest.raises(openai.AuthenticationError):
        api.models.list()
    places = [server.stderr_file, *(file for file in server.run_dir.rglob("*") if file.is_file())]
    places += [Path(f"/proc/{pid}/{name}") for pid in server.child_pids for name in ("cmdline", "environ")]
    for key in (KEY, FILE_KEY, ADMIN_KEY, "sk-wrong-0000"):
        assert [place for place in places if key.encode() in place.read_bytes()] == []


def test_the_settings_of_the_children_are_private_in_any_folder(server):
    assert stat.S_IMODE((server.run_dir / "config.json").stat().st_mode) == 0o600
