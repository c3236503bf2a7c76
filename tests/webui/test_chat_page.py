"""The chat page in a real browser, on a real server with a key; answers that the fake model never gives are put in."""

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, expect

from tests.processes import stats
from tests.servers import Server
from tests.waiting import wait_until
from tests.webui.conftest import API_KEY

HOSTILE = (
    "<script>window.hacked = 1</script> <img src=x onerror='window.hacked = 1'> [x](javascript:window.hacked=1)\n\n"
    '```"><b>\n<iframe src=x>\n```\n\n| <b>a</b> | <svg onload="window.hacked=1"> |\n|---|---|\n| 1 | 2 |'
)
WIDE = (
    "```python\n"
    + "x = '"
    + "y" * 300
    + "'\n```\n\n| "
    + " | ".join("column" * 3 for _ in range(9))
    + " |\n"
    + "|---" * 9
)

TOO_WIDE = """
    [...document.querySelectorAll("html, main *")]
        .filter((node) => node.getBoundingClientRect().right > 360 && !node.closest("pre, .table"))
        .map((node) => node.outerHTML.slice(0, 80))"""

NewPage = Callable[..., Page]


@pytest.fixture
def page(server: Server, new_page: NewPage) -> Page:
    """A new browser on the page, with the key."""
    return opened(server, new_page())


def opened(server: Server, page: Page) -> Page:
    page.goto(f"{server.url}/")
    return page


def ready(page: Page) -> Page:
    """Waits for the models."""
    expect(page.get_by_label("Model", exact=True)).to_have_value("fake")
    return page


def limit(page: Page, num_tokens: int) -> None:
    """Have answers end after so many tokens."""
    sampling = json.dumps({"sampling": {"max_tokens": num_tokens}})
    page.add_init_script(f"localStorage.setItem('fast-inference.settings', '{sampling}')")


def prompt(page: Page):
    return page.get_by_label("Message", exact=True)


def ask(page: Page, text: str) -> None:
    prompt(page).fill(text)
    prompt(page).press("Enter")


def answers(page: Page):
    return page.get_by_role("article", name="Answer")


def text(page: Page):
    return page.locator(".answer > .markdown").last


def questions(page: Page):
    return page.get_by_role("article", name="Your message")


def expect_begin(page: Page) -> str:
    """The first words of an answer that is being written."""
    expect(text(page)).to_have_text(re.compile(r"\S.{3}"))
    return text(page).inner_text()


def expect_end(page: Page) -> None:
    expect(page.get_by_role("button", name="Send (Enter)")).to_be_visible()
    expect(answers(page).last.locator(".figures")).to_contain_text("token")


def stream(*deltas: str, end: str = "data: [DONE]\n\n") -> str:
    """The body of a streamed answer."""
    chunks = [{"choices": [{"index": 0, "delta": {"content": delta}, "finish_reason": None}]} for delta in deltas]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end


def answer_with(page: Page, body: str, **options) -> None:
    """Have the next requests for answers get this."""
    options = {"status": 200, "content_type": "text/event-stream", **options}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, **options))


def test_an_answer_streams_and_its_figures_are_shown(page: Page):
    ask(ready(page), "Hello there")
    expect(questions(page)).to_have_text("Hello there")
    begun = expect_begin(page)
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    prompt(page).press("Escape")
    expect_end(page)
    assert text(page).inner_text().startswith(begun)
    expect(answers(page).locator(".figures")).to_have_text(
        re.compile(r"^[\d.]+ tok/s · first token [\d.]+ m?s · \d+ tokens · stopped$")
    )


def test_stopping_ends_the_request_on_the_server(server: Server, page: Page):
    ask(ready(page), "Tell me a long story")
    expect_begin(page)
    page.get_by_role("button", name="Stop").click()
    expect_end(page)
    with server.connect() as client:
        wait_until(lambda: stats(client)["num_running"] == 0)


def test_answering_again_keeps_both_answers(server: Server, new_page: NewPage):
    page = new_page()
    limit(page, 8)
    ask(ready(opened(server, page)), "Again")
    expect_end(page)
    page.get_by_role("button", name="Answer again").click()
    expect(answers(page)).to_contain_text("2/2")
    expect_end(page)
    page.get_by_role("button", name="Earlier version").click()
    expect(answers(page)).to_contain_text("1/2")
    assert questions(page).count() == answers(page).count() == 1


def test_a_message_is_edited_and_sent_again(server: Server, new_page: NewPage):
    page = new_page()
    limit(page, 8)
    ask(ready(opened(server, page)), "First words")
    expect_end(page)
    prompt(page).press("ArrowUp")
    page.get_by_label("Edit your message").fill("Other words")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.get_by_label("Edit your message").press("Enter")
    assert sent.value.post_data_json["messages"] == [{"role": "user", "content": "Other words"}]
    expect(questions(page)).to_contain_text("2/2")
    expect_end(page)
    page.get_by_role("button", name="Earlier version").click()
    expect(questions(page)).to_contain_text("First words")


def test_an_answer_that_was_cut_off_goes_on(server: Server, new_page: NewPage):
    page = new_page()
    limit(page, 8)
    ask(ready(opened(server, page)), "Go on")
    expect(answers(page).locator(".figures")).to_contain_text("no more tokens allowed")
    expect(answers(page).locator(".figures")).to_have_attribute(
        "title", re.compile(r"^fake\nprompt: \d+ .*\nqueue .*ms")
    )
    begun = text(page).inner_text()
    with page.expect_request("**/v1/chat/completions") as sent:
        page.get_by_role("button", name="Continue").click()
    assert sent.value.post_data_json["continue_final_message"] is True
    expect_end(page)
    expect(answers(page)).to_have_count(1)
    longer = text(page).inner_text()
    assert longer.startswith(begun)
    assert len(longer) > len(begun)


def test_a_reload_keeps_the_conversation(server: Server, new_page: NewPage):
    page = new_page()
    limit(page, 8)
    ask(ready(opened(server, page)), "Remember me")
    expect_end(page)
    said = answers(page).inner_text()
    page.reload()
    expect(questions(page)).to_have_text("Remember me")
    assert answers(page).inner_text() == said
    expect(page.get_by_role("link", name="Remember me")).to_have_attribute("aria-current", "page")
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(ready(page), "And then?")
    assert [message["role"] for message in sent.value.post_data_json["messages"]] == ["user", "assistant", "user"]
    expect_end(page)


def test_what_is_set_is_sent(page: Page):
    ready(page).get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").fill("Answer in verse.")
    for label, value in (("Temperature", "0.5"), ("Most tokens", "4"), ("Seed", "7"), ("Top p", "3")):
        page.get_by_label(label).fill(value)
    page.get_by_label("Stop strings").fill("one\ntwo")
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "Go")
    body = sent.value.post_data_json
    assert body["messages"][0] == {"role": "system", "content": "Answer in verse."}
    assert (body["temperature"], body["max_tokens"], body["seed"]) == (0.5, 4, 7)
    assert body["stop"] == ["one", "two"]
    assert "top_p" not in body  # 3 is out of its range, and the field says so
    expect_end(page)


def test_what_a_model_says_stays_text(server: Server, page: Page):
    answer_with(page, stream(*re.findall(r".{1,7}", HOSTILE, re.DOTALL)))
    ask(ready(page), HOSTILE)
    for _ in range(2):
        expect(answers(page)).to_contain_text("<iframe src=x>")
        expect(answers(page)).to_contain_text("<script>window.hacked = 1</script>")
        expect(questions(page)).to_contain_text("<script>window.hacked = 1</script>")
        assert page.locator("#log :is(script, img, iframe, b, svg:not(.icon)), #log a").count() == 0
        assert page.evaluate("window.hacked") is None
        page.reload()  # what was kept is no less text
    assert page.locator("#sidebar :is(script, iframe)").count() == 0


def test_markup_cannot_be_made_of_text_at_all(server: Server, new_page: NewPage):
    page = opened(server, new_page(may_complain=True))
    refused = "try { document.body.innerHTML = '<b>x</b>'; return false; } catch { return true; }"
    assert page.evaluate(f"() => {{ {refused} }}")


def test_conversations_come_and_go_as_files(page: Page, tmp_path: Path):
    answer_with(page, stream("Fine."))
    ask(ready(page), "How are you?")
    expect(answers(page)).to_contain_text("Fine.")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
    file = tmp_path / "conversations.json"
    download.value.save_as(file)
    page.get_by_role("button", name="Delete all").click()
    expect(page.locator("#conversations")).to_contain_text("No conversations yet.")
    page.locator("#import-file").set_input_files(file)
    page.get_by_role("link", name="How are you?").click()
    expect(answers(page)).to_contain_text("Fine.")
    file.write_text("no JSON")
    page.locator("#import-file").set_input_files(file)
    expect(page.locator("#notices")).to_contain_text("This file is not JSON.")


def test_a_conversation_is_renamed_found_deleted_and_brought_back(page: Page):
    answer_with(page, stream("Yes."))
    ask(ready(page), "A question about otters")
    expect(answers(page)).to_contain_text("Yes.")
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("New title").fill("Otters")
    page.get_by_label("New title").press("Enter")
    entry = page.locator("#conversations").get_by_role("link")
    expect(entry).to_have_text("Otters")
    page.get_by_label("Search conversations").fill("walrus")
    expect(entry).to_have_count(0)
    page.get_by_label("Search conversations").fill("QUESTION about")
    expect(entry).to_have_count(1)
    page.get_by_role("button", name="Delete “Otters”").click()
    expect(entry).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(entry).to_have_text("Otters")


def test_a_key_is_asked_for_and_used(server: Server, new_page: NewPage):
    page = opened(server, new_page(api_key="", may_complain=True))  # browsers log each 401
    expect(page.get_by_role("dialog")).to_contain_text("This server asks for an API key.")
    page.keyboard.press("Escape")
    expect(page.locator("#status")).to_have_text("needs a key")
    ask(page, "Not yet")
    expect(prompt(page)).to_have_value("Not yet")  # nothing that was written is lost
    page.get_by_role("button", name="Key", exact=True).click()
    page.locator("#key").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("The server does not know this key.")
    page.locator("#key").fill(API_KEY)
    page.keyboard.press("Enter")
    ready(page)
    assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
    page.get_by_role("button", name="Key", exact=True).click()
    page.get_by_label("Keep it in this browser").check()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert page.evaluate("[sessionStorage.length, localStorage['fast-inference.api-key']]") == [0, API_KEY]


def test_a_refused_message_is_sent_again_with_the_key(server: Server, new_page: NewPage):
    page = ready(opened(server, new_page(may_complain=True)))
    page.evaluate("sessionStorage.clear()")
    ask(page, "Let me in")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.locator("#key").fill(API_KEY)
    page.keyboard.press("Enter")
    expect_begin(page)
    expect(answers(page)).to_have_count(1)


def test_a_full_server_says_when_to_try_again(server: Server, new_page: NewPage):
    page = new_page(may_complain=True)
    error = {"error": {"message": "Too many requests are waiting.", "code": "queue_full", "status": 429}}
    answer_with(page, json.dumps(error), status=429, content_type="application/json", headers={"retry-after": "1"})
    ask(ready(opened(server, page)), "Hello")
    expect(page.get_by_role("alert")).to_contain_text("Too many requests are waiting.")
    expect(page.get_by_role("button", name="Try again in")).to_be_disabled()
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Try again", exact=True).click()
    expect_begin(page)
    expect(answers(page)).to_have_count(1)
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (stream("So far", end=""), "The connection ended before the answer was complete."),
        (stream("So far", end="data: <html>\n\n"), "sent what is no part of an answer."),
        (stream("So far", end='data: {"error":{"message":"The engine failed.","code":"x"}}\n\n'), "The engine failed."),
    ],
)
def test_what_came_before_a_failure_stays(page: Page, body: str, expected: str):
    answer_with(page, body)
    ask(ready(page), "Hello")
    expect(page.get_by_role("alert")).to_contain_text(expected)
    expect(answers(page)).to_contain_text("So far")
    expect(page.get_by_role("button", name="Continue")).to_be_visible()


def test_a_lost_connection_is_told(server: Server, new_page: NewPage):
    page = ready(opened(server, new_page(may_complain=True)))
    page.route("**/*", lambda route: route.abort())
    ask(page, "Hello")
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached")
    expect(page.locator("#status")).to_have_text("unreachable")


def test_reasoning_folds_away(page: Page):
    chunks = [{"reasoning_content": "Let me think."}, {"content": "Four."}]
    body = "".join(f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]})}\n\n" for delta in chunks)
    answer_with(page, body + "data: [DONE]\n\n")
    ask(ready(page), "2 + 2?")
    expect(answers(page)).to_contain_text("Four.")
    expect(page.get_by_text("Let me think.")).to_be_hidden()
    page.get_by_text("Reasoning").click()
    expect(page.get_by_text("Let me think.")).to_be_visible()


def test_the_page_follows_an_answer_until_the_reader_scrolls_up(server: Server, new_page: NewPage):
    page = new_page(viewport={"width": 900, "height": 420})
    lines = "\n\n".join(f"line {number}" for number in range(60))
    answer_with(page, stream(lines))
    ask(ready(opened(server, page)), "Write")
    expect(page.get_by_text("line 59", exact=True)).to_be_in_viewport()
    page.unroute("**/v1/chat/completions")
    page.get_by_text("line 40", exact=True).hover()
    page.mouse.wheel(0, -600)
    expect(page.get_by_role("button", name="To the latest")).to_be_visible()
    expect(page.get_by_text("line 59", exact=True)).not_to_be_in_viewport()
    page.get_by_role("button", name="To the latest").click()
    expect(page.get_by_text("line 59", exact=True)).to_be_in_viewport()
    expect(page.get_by_role("button", name="To the latest")).to_be_hidden()


def test_everything_fits_on_a_phone(server: Server, new_page: NewPage):
    page = new_page(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    answer_with(page, stream(WIDE))
    ask(ready(opened(server, page)), "w" * 300)
    expect(answers(page)).to_contain_text("columncolumncolumn")
    assert page.evaluate(TOO_WIDE) == []
    expect(page.locator("#sidebar")).not_to_be_in_viewport()
    page.get_by_role("button", name="Open the list").tap()
    expect(page.get_by_role("button", name="New chat")).to_be_in_viewport()
    page.get_by_role("button", name="New chat").tap()
    expect(page.get_by_text("What can I do for you?")).to_be_visible()
    expect(page.locator("#sidebar")).not_to_be_in_viewport()
    assert page.evaluate(TOO_WIDE) == []


def test_all_of_it_goes_by_keyboard(page: Page):
    answer_with(page, stream("Fine."))
    expect(prompt(ready(page))).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(prompt(page)).to_have_value("one\ntwo")
    page.keyboard.press("Enter")
    expect(answers(page)).to_contain_text("Fine.")
    page.keyboard.press("Control+k")
    expect(answers(page)).to_have_count(0)
    page.locator("#log").focus()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("new line")
    page.keyboard.press("Escape")
    page.locator("#log").focus()
    page.keyboard.press("/")
    expect(prompt(page)).to_be_focused()
    expect(prompt(page)).to_have_value("")


def background(page: Page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_dark_mode_follows_the_system_and_the_switch(server: Server, new_page: NewPage):
    page = opened(server, new_page(color_scheme="dark"))
    dark = background(page)
    page.emulate_media(color_scheme="light")
    light = background(page)
    assert light != dark
    page.get_by_role("button", name="Colours: system").click()
    assert background(page) == dark
    page.reload()
    assert background(page) == dark
    page.get_by_role("button", name="Colours: dark").click()
    page.emulate_media(color_scheme="dark")
    assert background(page) == light


def test_screen_readers_hear_the_answer(page: Page):
    answer_with(page, stream("Spoken."))
    ask(ready(page), "Say it")
    expect(page.locator("#announcer")).to_have_text("Spoken.")
    unnamed = "[...document.querySelectorAll('button, input, select, textarea, a')].filter((n) => !n.textContent.trim()"
    unnamed += " && !n.ariaLabel && !n.labels?.length && !n.getAttribute('aria-labelledby')).map((n) => n.outerHTML)"
    assert page.evaluate(unnamed) == []


def test_answers_survive_a_restart_of_the_engine(server: Server, page: Page):
    ask(ready(page), "Survive this")
    begun = expect_begin(page)
    epoch = server.status["core"]["epoch"]
    os.kill(server.core_pid, signal.SIGKILL)
    wait_until(lambda: server.status["core"]["epoch"] > epoch, 20)
    expect(text(page)).to_have_text(re.compile(f".{{{len(begun) + 5}}}"))
    page.keyboard.press("Escape")
    expect_end(page)
    assert text(page).inner_text().startswith(begun.strip()[:10])


def test_only_this_server_is_asked(server: Server, new_page: NewPage):
    page = new_page()
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request))
    ready(opened(server, page))
    assert len(requests) > 10
    assert all(request.url.startswith(server.url) for request in requests)
