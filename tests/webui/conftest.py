"""One browser for each file, and one server with an API key and the fake model for all that need one."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.servers import Server

API_KEY = "key-of-the-tests"
TIMEOUT_MS = 10_000


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """10 ms a step."""
    with tempfile.TemporaryDirectory() as folder:  # of a short name, as paths of sockets are
        server = Server(Path(folder), "fake", "--fake-step-ms", "10", "--api-key", API_KEY)
        yield server
        server.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Not for the session: while it runs, its event loop counts as the running one for other tests."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert executable, "the tests of the web pages need Chromium: scripts/install-system installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def shared_context(browser: Browser) -> Iterator[BrowserContext]:
    """For pages without wishes of their own: what they load is in its cache from the second one on."""
    context = browser.new_context()
    yield context
    context.close()


@pytest.fixture
def new_page(browser: Browser, shared_context: BrowserContext, server: Server) -> Iterator[Callable[..., Page]]:
    """Makes pages in a browser that keeps nothing of the tests before; at the end none may have complained."""
    pages: list[Page] = []
    complaints: list[str] = []

    def make(*, api_key: str = API_KEY, may_complain: bool = False, **options) -> Page:
        page = (browser.new_context(**options) if options else shared_context).new_page()
        pages.append(page)
        page.set_default_timeout(TIMEOUT_MS)
        if api_key:
            page.add_init_script(f"sessionStorage.setItem('fast-inference.api-key', '{api_key}')")
        if not may_complain:
            page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page

    yield make
    complained = list(complaints)  # before the data is taken away under what the page may be writing
    for page in pages:
        page.context.new_cdp_session(page).send(
            "Storage.clearDataForOrigin", {"origin": server.url, "storageTypes": "indexeddb,local_storage"}
        )
        page.close()
        if page.context is not shared_context:
            page.context.close()
    assert complained == []
