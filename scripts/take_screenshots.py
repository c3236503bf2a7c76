#!/usr/bin/env python3
"""Uses the chat page and the dashboard of a real server in Chromium, and keeps pictures of them in docs/img.

    scripts/take_screenshots.py                                          # SmolLM2, about 2 minutes
    scripts/take_screenshots.py smollm2-135m-instruct -- --num-blocks 96 # flags of `fast-inference serve` after --

It chats, stops an answer, answers again, reloads, looks at the same conversation in dark mode and on a phone, kills the
engine core during an answer, and looks at the dashboard while requests come. Each step is checked; exit status 1 if one
fails or the browser complains.
"""

import argparse
import io
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from fast_inference.bench.interruption import errors_as_exits
from fast_inference.bench.own_server import OwnServer, own_server
from fast_inference.cli_bench import split_at_dashes

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs/img"
MAX_BYTES = 150_000
DESKTOP = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 780}
ANSWER_MS = 60_000
LOAD_S = 75.0
QUESTION = "Write a Python function that checks whether a word is a palindrome, and explain it in one sentence."


class Pages:
    """Pages of one browser; what any of them complains of is kept."""

    def __init__(self, browser: Browser) -> None:
        self.complaints: list[str] = []
        self._browser = browser

    def open(self, url: str) -> Page:
        """A page in a browser that knows nothing yet."""
        page = self._browser.new_context(viewport=DESKTOP, color_scheme="light").new_page()
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(url)
        return page

    def _hear(self, message: ConsoleMessage) -> None:
        """A browser also logs each answer that is an error; 503 is what /health says while the engine restarts."""
        if message.type == "error" and "status of 503" not in message.text:
            self.complaints.append(message.text)


def save(page: Page, name: str) -> None:
    """Keep what is seen as docs/img/NAME.png, in 256 colours: the pages have few."""
    page.mouse.move(0, 0)  # over nothing
    image = Image.open(io.BytesIO(page.screenshot()))
    few = image.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    file = FOLDER / f"{name}.png"
    few.save(file, optimize=True)
    size = file.stat().st_size
    print(f"{file.relative_to(ROOT)}: {size:,} bytes")
    assert size < MAX_BYTES, "a picture is too large"


def ask(page: Page, text: str) -> None:
    """Send a message."""
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_label("Message", exact=True).press("Enter")


def wait_for_end(page: Page) -> None:
    """Until the answer is complete."""
    expect(page.get_by_role("button", name="Send (Enter)")).to_be_visible(timeout=ANSWER_MS)


def chat(page: Page) -> None:
    """Stream, stop, answer again, reload."""
    figures = page.locator(".answer .figures").last
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Most tokens").fill("220")
    page.get_by_role("button", name="Close settings").click()
    ask(page, "What is the capital of France?")
    wait_for_end(page)
    expect(page.locator(".answer > .markdown")).to_contain_text("Paris")
    ask(page, QUESTION)
    expect(figures).to_contain_text(re.compile(r"\d{2} tokens"), timeout=ANSWER_MS)
    expect(page.get_by_role("button", name="Stop (Esc)")).to_be_visible()
    page.keyboard.press("Escape")
    expect(figures).to_contain_text("stopped")
    page.get_by_role("button", name="Answer again").last.click()
    expect(page.locator(".answer").last).to_contain_text("2/2", timeout=ANSWER_MS)
    wait_for_end(page)
    said = page.locator("#messages").inner_text()
    page.reload()
    expect(page.locator(".answer")).to_have_count(2)
    assert page.locator("#messages").inner_text() == said, "a reload has changed the conversation"


def survive(page: Page, server: OwnServer) -> None:
    """The engine core dies during an answer: the page says so, and the answer goes on."""
    page.keyboard.press("Control+k")
    ask(page, "Tell me a long story about a lighthouse keeper and the sea.")
    expect(page.locator(".answer .figures")).to_contain_text(re.compile(r"\d{2} tokens"), timeout=ANSWER_MS)
    begun = page.locator(".answer > .markdown").inner_text()
    assert server.core_pid is not None
    os.kill(server.launcher_pid, signal.SIGSTOP)  # it would have the next core ready before anybody sees it
    try:
        os.kill(server.core_pid, signal.SIGKILL)
        expect(page.locator(".note")).to_contain_text("The answer goes on by itself", timeout=ANSWER_MS)
        save(page, "chat-restart")
    finally:
        os.kill(server.launcher_pid, signal.SIGCONT)
    wait_for_end(page)
    expect(page.get_by_role("alert")).to_have_count(0)
    assert page.locator(".answer > .markdown").inner_text().startswith(begun[:20]), "the answer began anew"


@contextmanager
def load_on(url: str, model: str) -> Iterator[None]:
    """More and more streams at a time, then fewer."""
    is_over = threading.Event()
    began_at = time.monotonic()

    def keep_asking(number: int) -> None:
        body = {"model": model, "max_tokens": 60, "temperature": 1, "ignore_eos": True}
        body["messages"] = [{"role": "user", "content": f"Tell me something about the number {number}. " * 8}]
        with httpx.Client(base_url=url, timeout=120) as http:
            while not is_over.wait(0.1 + number % 3 * 0.7):
                if abs((time.monotonic() - began_at) / LOAD_S - 0.5) < 0.5 - number * 0.05:
                    http.post("/v1/chat/completions", json=body).raise_for_status()

    threads = [threading.Thread(target=keep_asking, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def watch(page: Page, model: str, url: str) -> None:
    """Look at the dashboard until the load is nearly over."""
    page.get_by_label("Time shown").select_option("1")
    with load_on(url, model):
        tile = page.locator("#tile-running")
        expect(tile).to_have_text(re.compile(r"^[1-9]"), timeout=20_000)
        page.wait_for_timeout(LOAD_S * 1000 * 0.9)
        save(page, "dashboard")
        page.emulate_media(color_scheme="dark")
        page.wait_for_timeout(1500)
        save(page, "dashboard-dark")


def main() -> None:
    """Run it."""
    own, flags = split_at_dashes(sys.argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    model = parser.parse_args(own).model
    executable = shutil.which("chromium") or sys.exit("error: there is no chromium on the PATH")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with own_server([model, *flags]) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        pages = Pages(browser)
        page = pages.open(server.url)
        expect(page.locator("#status")).to_have_text("ready")
        save(page, "chat-new")
        chat(page)
        save(page, "chat")
        page.emulate_media(color_scheme="dark")
        page.get_by_role("button", name="Settings").click()
        save(page, "chat-dark")
        page.get_by_role("button", name="Close settings").click()
        page.emulate_media(color_scheme="light")
        page.set_viewport_size(PHONE)
        page.wait_for_timeout(300)
        save(page, "chat-phone")
        page.set_viewport_size(DESKTOP)
        survive(page, server)
        watch(pages.open(f"{server.url}/dashboard"), model, server.url)
        browser.close()
    for complaint in pages.complaints:
        print(f"the browser complains: {complaint}", file=sys.stderr)
    sys.exit(1 if pages.complaints else 0)


if __name__ == "__main__":
    with errors_as_exits():
        main()
