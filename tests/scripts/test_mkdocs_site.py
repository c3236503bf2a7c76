"""The documents build into a site whose links lead somewhere and which loads nothing from other hosts."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from scripts.mkdocs_hooks import links_of, site_link, with_links
from tests.documents import ROOT

LOADING = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}


class Links(HTMLParser):
    """What a page loads, what it links to, and the anchors that it has."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded, self.linked, self.anchors = [], [], {""}
        self.feed(page.read_text())

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag in LOADING and values.get(LOADING[tag]) and values.get("rel") != "canonical":
            self.loaded.append(values[LOADING[tag]])
        if tag == "a" and values.get("href"):
            self.linked.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", ROOT / "mkdocs.yml", "-d", folder]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert built.returncode == 0, built.stdout + built.stderr
    return {page: Links(page) for page in folder.rglob("*.html")}


def test_it_loads_nothing_from_other_hosts(site):
    assert len(site) > 30
    assert [url for page in site.values() for url in page.loaded if urlsplit(url).netloc] == []


def test_every_link_of_the_site_leads_to_a_page_and_a_place_in_it(site):
    broken = []
    for page, links in site.items():
        for href in links.linked + links.loaded:
            url = urlsplit(href)
            if url.scheme or page.name == "404.html":
                continue
            target = (page.parent / unquote(url.path)).resolve() if url.path else page
            if target.is_dir():
                target = target / "index.html"
            if not target.exists() or (target in site and unquote(url.fragment) not in site[target].anchors):
                broken.append((page.name, href))
    assert broken == []


def test_every_document_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    names = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert names <= set(str(yaml.safe_load(text)["nav"]).replace("'", " ").split())


@pytest.mark.parametrize(
    ("origin", "target", "page"),
    [
        ("docs/engine.md", "kv-cache.md", "kv-cache.md"),
        ("docs/engine.md", "../README.md#measure-it", "index.md#measure-it"),
        ("docs/engine.md", "../ipc/codec.py", "source/ipc/codec.py.md"),
        ("README.md", "docs/api.md", "api.md"),
        ("README.md", "configs/", "source/configs.md"),
        ("CHANGELOG.md", "docs/batch.md#from-python", "batch.md#from-python"),
    ],
)
def test_links_between_files_become_links_between_pages(origin, target, page):
    assert site_link(target, origin) == page


def test_links_in_code_and_to_the_world_are_left_alone():
    text = "[a](b.md) `[a](b.md)` [c](https://c.org)\n```\nx[1](b.md)\n```\n![d](d.png)"
    assert list(links_of(text, "docs/x.md")) == ["docs/b.md", "docs/d.png"]
    changed = with_links(text, lambda target: "new")
    assert changed == "[a](new) `[a](b.md)` [c](https://c.org)\n```\nx[1](b.md)\n```\n![d](new)"
