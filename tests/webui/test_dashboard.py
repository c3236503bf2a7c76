"""The dashboard in a real browser, on a real server that is under load."""

import os
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.servers import Server
from tests.waiting import wait_until
from tests.webui.conftest import API_KEY

NewPage = Callable[..., Page]
HEADERS = {"x-api-key": API_KEY}


@pytest.fixture
def load(server: Server):
    """Three streams, one after the other each, while a test runs."""
    is_over = threading.Event()

    def keep_asking() -> None:
        body = {"model": "fake", "prompt": "load", "max_tokens": 50, "ignore_eos": True}
        with httpx.Client(base_url=server.url, timeout=60, headers=HEADERS) as http:
            while not is_over.is_set():
                assert http.post("/v1/completions", json=body).status_code == 200

    threads = [threading.Thread(target=keep_asking) for _ in range(3)]
    for thread in threads:
        thread.start()
    yield
    is_over.set()
    for thread in threads:
        thread.join()


def opened(server: Server, page: Page) -> Page:
    page.goto(f"{server.url}/dashboard")
    return page


@pytest.fixture
def server_of_two_cores() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:  # of a short name, as paths of sockets are
        server = Server(Path(folder), "fake", "--cores", "2", "--fake-step-ms", "10", "--threads", "1")
        yield server
        server.close()


def chart(page: Page, title: str):
    return page.get_by_role("img", name=title)


@pytest.mark.usefixtures("load")
def test_the_charts_move_while_load_runs(server: Server, new_page: NewPage):
    page = opened(server, new_page())
    expect(page.locator("#status")).to_have_text("ready")
    expect(page.locator("#tile-running")).to_have_text("3")
    expect(page.locator("#tile-frontends")).to_have_text("2")
    expect(page.locator("#tile-rate")).to_have_text(re.compile(r"^\d{2,}"))
    for title in ("Requests: running", "Tokens per second", "Time to first token", "Time between tokens"):
        assert "\N{EN DASH}" not in chart(page, title).get_attribute("aria-label").split(",")[0]
    drawn = "document.querySelector('canvas').toDataURL()"
    before = page.evaluate(drawn)
    wait_until(lambda: page.evaluate(drawn) != before)
    assert page.locator("#problem").inner_text() == ""


def test_it_asks_nothing_while_nobody_looks(server: Server, new_page: NewPage):
    page = new_page()
    page.clock.install()
    opened(server, page)
    expect(page.locator("#tile-running")).to_have_text("0")
    hide = "(isHidden) => { Object.defineProperty(document, 'hidden', { value: isHidden, configurable: true });"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    page.wait_for_load_state("networkidle")
    page.evaluate(hide, True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(10_000)
    assert asked == []
    with page.expect_request("**/load"):
        page.evaluate(hide, False)
    page.wait_for_load_state("networkidle")


def test_a_key_is_asked_for_once_and_used(server: Server, new_page: NewPage):
    page = opened(server, new_page(api_key="", may_complain=True))  # browsers log each 401
    expect(page.get_by_role("dialog")).to_contain_text("This server asks for an API key.")
    page.locator("#key").fill(API_KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#tile-running")).to_have_text("0")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_values_under_the_pointer_are_told(server: Server, new_page: NewPage):
    page = opened(server, new_page())
    expect(page.locator("#tile-running")).to_have_text("0")
    chart(page, "Requests: running").hover()
    expect(chart(page, "Requests: running")).to_have_attribute("aria-label", "Requests: running 0, waiting 0")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_fits_on_a_phone(server: Server, new_page: NewPage, scheme: str):
    page = opened(server, new_page(viewport={"width": 360, "height": 640}, is_mobile=True, color_scheme=scheme))
    expect(page.locator("#tile-running")).to_have_text("0")
    right_edges = "[...document.querySelectorAll('html, body *')].map((node) => node.getBoundingClientRect().right)"
    assert max(page.evaluate(right_edges)) <= 360
    is_dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0] < 128")
    assert is_dark is (scheme == "dark")


def test_batches_are_listed(server: Server, new_page: NewPage):
    line = b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "fake", "prompt": "x"}}'
    with httpx.Client(base_url=server.url, timeout=60, headers=HEADERS) as http:
        file = http.post("/v1/files", files={"file": ("b.jsonl", line)}, data={"purpose": "batch"}).json()
        job = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
        batch = http.post("/v1/batches", json=job).json()
    page = opened(server, new_page())
    expect(page.locator("#batch-rows")).to_contain_text(batch["id"])
    expect(page.locator("#batch-rows progress")).to_have_count(1)


def test_one_core_has_no_table(server: Server, new_page: NewPage):
    page = opened(server, new_page())
    expect(page.locator("#tile-running")).to_have_text("0")
    expect(page.locator("#cores")).to_be_hidden()


def test_each_of_several_cores_has_a_row(server_of_two_cores: Server, new_page: NewPage):
    page = new_page(api_key="", viewport={"width": 360, "height": 640})
    opened(server_of_two_cores, page)
    rows = page.locator("#core-rows tr")
    expect(rows).to_have_count(2)
    stream = server_of_two_cores.openai().completions.create(
        model="fake", prompt="x", max_tokens=1900, stream=True, extra_body={"ignore_eos": True}
    )
    with stream:
        expect(page.locator("#core-rows")).to_contain_text(re.compile(r"ready1"))
        busy = rows.filter(has_text="ready1")
        expect(busy.locator("td").nth(4)).to_have_text(re.compile(r"^\d{2}"))
    launcher_pid = server_of_two_cores.status["launcher"]["pid"]
    os.kill(launcher_pid, signal.SIGSTOP)  # else the core would be back before the page has looked
    try:
        os.kill(server_of_two_cores.status["cores"][1]["pid"], signal.SIGKILL)
        expect(rows.nth(1)).not_to_contain_text("ready")
        expect(page.locator("#status")).to_have_text("ready")
    finally:
        os.kill(launcher_pid, signal.SIGCONT)
    expect(rows.nth(1)).to_contain_text("ready")
    right_edges = (
        "[...document.querySelectorAll('html, main, .card, .scroll')].map((node) => node.getBoundingClientRect().right)"
    )
    assert max(page.evaluate(right_edges)) <= 360
