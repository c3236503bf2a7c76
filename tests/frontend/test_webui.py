"""How the chat page and the dashboard are served; tests/webui uses them in a browser."""

import asyncio
import re
from pathlib import Path

import httpx
import pytest

from tests.frontend.test_access import KEYS, app_with, ask, client_of

ASSETS = Path(__file__).parents[2] / "frontend/webui_assets"
LINK = re.compile(r'(?:src|href)="(webui/[^"]+)"')
IMPORT = re.compile(r'^(?:import|export)\b[^;]*?from "(\./[^"]+)"', re.MULTILINE | re.DOTALL)


def ask_all(tmp_path: Path, paths: list[str], **settings) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        async with client_of(app_with(tmp_path, **settings)) as http:
            return [await http.get(path) for path in paths]

    return asyncio.run(run())


def links_of(tmp_path: Path, path: str) -> list[str]:
    return [f"/{link}" for link in LINK.findall(ask(tmp_path, "GET", path).text)]


@pytest.mark.parametrize("path", ["/", "/dashboard"])
def test_a_page_loads_what_is_served_here(tmp_path: Path, path: str):
    links = links_of(tmp_path, path)
    assert len(links) > 10
    assert [answer.status_code for answer in ask_all(tmp_path, links)] == [200] * len(links)


@pytest.mark.parametrize(("path", "entry"), [("/", "chat.js"), ("/dashboard", "dashboard.js")])
def test_all_modules_are_named_so_that_they_load_at_once(tmp_path: Path, path: str, entry: str):
    needed, new = set(), {entry}
    while new:
        name = new.pop()
        needed.add(name)
        imported = {item.removeprefix("./") for item in IMPORT.findall((ASSETS / name).read_text())}
        new |= imported - needed
    linked = {link.rpartition("/")[2] for link in links_of(tmp_path, path) if link.endswith(".js")}
    assert linked == needed | {"theme_start.js"}


@pytest.mark.parametrize("path", ["/", "/dashboard"])
def test_the_browser_may_neither_load_from_elsewhere_nor_make_markup(tmp_path: Path, path: str):
    page = ask(tmp_path, "GET", path)
    policy = page.headers["content-security-policy"]
    for part in ("default-src 'self'", "script-src 'self';", "style-src 'self';", "connect-src 'self'"):
        assert part in policy
    for part in ("frame-ancestors 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"):
        assert part in policy
    assert not re.search("unsafe|http|data:|blob:", policy)
    assert page.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=|https?://", page.text)


def test_no_script_can_make_markup_of_a_string():
    makes_markup = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function")
    assert not [file.name for file in ASSETS.glob("*.js") if makes_markup.search(file.read_text())]


def test_assets_are_kept_for_ever_and_pages_asked_for_each_time(tmp_path: Path):
    page = ask(tmp_path, "GET", "/")
    assert page.headers["cache-control"] == "no-cache"
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    script = ask(tmp_path, "GET", next(link for link in links_of(tmp_path, "/") if link.endswith("/chat.js")))
    assert "immutable" in script.headers["cache-control"]
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"


@pytest.mark.parametrize("path", ["/", "/dashboard"])
def test_what_the_browser_has_is_not_sent_again(tmp_path: Path, path: str):
    etag = ask(tmp_path, "GET", path).headers["etag"]
    for known in (etag, f'"other", {etag}', "*"):
        answer = ask(tmp_path, "GET", path, {"if-none-match": known})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert ask(tmp_path, "GET", path, {"if-none-match": '"other"'}).status_code == 200


def test_files_come_compressed_where_that_is_accepted(tmp_path: Path):
    compressed = ask(tmp_path, "GET", "/", {"accept-encoding": "gzip"})
    plain = ask(tmp_path, "GET", "/", {"accept-encoding": "identity"})
    for refusal in ("gzip;q=0", "deflate, gzip; q=0.0", "xgzip"):
        assert "content-encoding" not in ask(tmp_path, "GET", "/", {"accept-encoding": refusal}).headers
    for wish in ("deflate, gzip;q=0.5", "GZIP"):
        assert ask(tmp_path, "GET", "/", {"accept-encoding": wish}).headers["content-encoding"] == "gzip"
    assert compressed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert plain.content == compressed.content
    assert compressed.headers["vary"] == plain.headers["vary"] == "accept-encoding"


def test_head_tells_the_same_without_the_content(tmp_path: Path):
    head, page = ask(tmp_path, "HEAD", "/"), ask(tmp_path, "GET", "/")
    assert (head.status_code, head.content) == (200, b"")
    assert {name: head.headers[name] for name in ("etag", "content-type", "content-length", "cache-control")} == {
        name: page.headers[name] for name in ("etag", "content-type", "content-length", "cache-control")
    }


def test_the_files_need_no_key_and_what_they_ask_for_does(tmp_path: Path):
    paths = ["/", "/dashboard", *links_of(tmp_path, "/")]
    assert {answer.status_code for answer in ask_all(tmp_path, paths, **KEYS)} == {200}
    paths = ["/v1/models", "/load", "/webui", "/webui/x/chat.js", "/dashboard/"]
    assert {answer.status_code for answer in ask_all(tmp_path, paths, **KEYS)} == {401}


def test_nothing_else_of_the_folder_is_served(tmp_path: Path):
    folder = links_of(tmp_path, "/")[0].rpartition("/")[0]
    paths = [f"{folder}/{name}" for name in ("chat.html", "..%2f..%2fapp.py", "../../app.py", "nothing.js", "")]
    assert {answer.status_code for answer in ask_all(tmp_path, paths)} == {404}


def test_they_can_be_turned_off(tmp_path: Path):
    for answer in ask_all(tmp_path, ["/", "/dashboard", *links_of(tmp_path, "/")], webui=False):
        assert answer.status_code == 404
        assert answer.json()["error"]["status"] == 404
    assert ask(tmp_path, "GET", "/", webui=False, **KEYS).status_code == 401


def test_pages_hold_behind_a_prefix(tmp_path: Path):
    async def run() -> httpx.Response:
        app = app_with(tmp_path, **KEYS)
        transport = httpx.ASGITransport(app=app, root_path="/prefix")
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport) as http:
            return await http.get("http://x/prefix/")

    page = asyncio.run(run())
    assert page.status_code == 200
    assert all(not link.startswith("/") for link in re.findall(r'(?:src|href)="([^"]+)"', page.text))
