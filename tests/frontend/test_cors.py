"""Web pages of other origins: nothing is granted that was not configured."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.frontend.test_access import ask

PAGE = "https://page.example"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


def preflight(tmp_path: Path, origin: str, **settings: Any) -> httpx.Response:
    return ask(tmp_path, "OPTIONS", "/v1/chat/completions", {"origin": origin, **PREFLIGHT}, **settings)


def granted(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-allow")}


def test_it_is_off_unless_asked_for(tmp_path: Path):
    assert granted(preflight(tmp_path, PAGE)) == {}
    assert granted(ask(tmp_path, "GET", "/version", {"origin": PAGE})) == {}


def test_a_preflight_needs_no_key_but_the_request_does(tmp_path: Path):
    settings = {"api_key": ("one",), "allowed_origins": (PAGE,)}
    allowed = preflight(tmp_path, PAGE, **settings)
    assert allowed.status_code == 200
    assert granted(allowed)["access-control-allow-origin"] == PAGE
    refused = ask(tmp_path, "GET", "/version", {"origin": PAGE}, **settings)
    assert (refused.status_code, granted(refused)["access-control-allow-origin"]) == (401, PAGE)


@pytest.mark.parametrize(
    "origin", ["https://other.example", "null", "https://page.example.evil", "http://page.example"]
)
@pytest.mark.parametrize("allow_credentials", [True, False])
def test_other_origins_get_nothing(tmp_path: Path, origin: str, allow_credentials: bool):
    settings = {"allowed_origins": (PAGE,), "allow_credentials": allow_credentials}
    refused = preflight(tmp_path, origin, **settings)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "cors_not_allowed")
    assert granted(refused) == {}
    answer = ask(tmp_path, "GET", "/version", {"origin": origin}, **settings)
    assert "access-control-allow-origin" not in granted(answer)


def test_any_origin_is_a_star_and_never_reflected(tmp_path: Path):
    answer = ask(tmp_path, "GET", "/version", {"origin": PAGE, "cookie": "a=b"}, allowed_origins=("*",))
    assert granted(answer) == {"access-control-allow-origin": "*"}


def test_credentials_methods_and_headers_are_as_configured(tmp_path: Path):
    settings = {
        "allowed_origins": (PAGE,),
        "allow_credentials": True,
        "allowed_methods": ("POST",),
        "allowed_headers": ("authorization",),
    }
    grants = granted(preflight(tmp_path, PAGE, **settings))
    assert grants["access-control-allow-credentials"] == "true"
    assert grants["access-control-allow-methods"] == "POST"
    assert "authorization" in grants["access-control-allow-headers"]
    other = ask(tmp_path, "OPTIONS", "/", {"origin": PAGE, "access-control-request-method": "PUT"}, **settings)
    assert other.status_code == 400
