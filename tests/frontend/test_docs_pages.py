"""The pages of the documentation: complete, and from here alone."""

import re
from pathlib import Path

import pytest

from tests.frontend.test_access import ask

ASSETS = Path(__file__).parents[2] / "frontend/docs_assets"


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_loads_what_is_served_here(tmp_path: Path, path: str):
    page = ask(tmp_path, "GET", path)
    assert page.headers["content-type"].startswith("text/html")
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) >= 3
    for link in links:
        if link != "data:,":
            assert ask(tmp_path, "GET", f"/{link}").status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/assets/redoc.standalone.js"])
def test_the_browser_may_load_nothing_from_elsewhere(tmp_path: Path, path: str):
    policy = ask(tmp_path, "GET", path).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "http" not in policy


def test_scripts_come_compressed_where_that_is_accepted(tmp_path: Path):
    path = "/docs/assets/swagger-ui.css"
    compressed = ask(tmp_path, "GET", path, {"accept-encoding": "gzip"})
    plain = ask(tmp_path, "GET", path, {"accept-encoding": "identity"})
    assert compressed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert plain.content == compressed.content
    assert int(compressed.headers["content-length"]) < len(plain.content) / 3


@pytest.mark.parametrize("name", ["README.md", "..%2fapp.py", "nothing.js", "redoc.standalone.js.gz", "swagger.html"])
def test_nothing_else_of_the_folder_is_served(tmp_path: Path, name: str):
    assert ask(tmp_path, "GET", f"/docs/assets/{name}").status_code == 404


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/assets/redoc-start.js", "/openapi.json"])
def test_they_can_be_turned_off(tmp_path: Path, path: str):
    assert ask(tmp_path, "GET", path, docs=False).status_code == 404


def test_every_file_of_others_has_its_licence_beside():
    notes = (ASSETS / "README.md").read_text()
    for file in ASSETS.glob("*.gz"):
        assert file.name.removesuffix(".gz") in notes
    assert "Apache License" in (ASSETS / "LICENSE.swagger-ui").read_text()
    assert "MIT License" in (ASSETS / "LICENSE.redoc").read_text()
