"""What befalls the chat page: other tabs, lost storage, odd answers, input methods, a server with another model."""

import json
import re

from playwright.sync_api import Page, expect

from tests.servers import Server
from tests.webui.conftest import API_KEY
from tests.webui.test_chat_page import (
    NewPage,
    answer_with,
    answers,
    ask,
    limit,
    opened,
    prompt,
    questions,
    ready,
    stream,
    text,
)

COMPLETE = 'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'


def typed_with_input_method(page: Page, field: str, key: str = "Enter") -> None:
    """The key that takes or leaves what an input method proposes, as Safari tells of it."""
    page.locator(field).evaluate(
        "(node, key) => node.dispatchEvent(new KeyboardEvent('keydown', "
        "{ key, keyCode: 229, bubbles: true, cancelable: true }))",
        key,
    )


def kept(page: Page) -> list[str]:
    """The contents of all messages in the browser's store."""
    found: list[str] = page.evaluate(
        """() => new Promise((resolve) => {
            const opening = indexedDB.open("fast-inference", 1);
            opening.onsuccess = () => {
                const asking = opening.result.transaction("conversations").objectStore("conversations").getAll();
                asking.onsuccess = () => resolve(asking.result.flatMap((c) => c.messages.map((m) => m.content)));
            };
        })"""
    )
    return found


def test_the_link_to_the_message_field_leaves_the_conversation_open(server: Server, new_page: NewPage):
    page = ready(opened(server, new_page()))
    answer_with(page, stream("an answer"))
    ask(page, "a question")
    expect(text(page)).to_have_text("an answer")
    page.get_by_role("link", name="To the message field").focus()
    page.keyboard.press("Enter")
    expect(prompt(page)).to_be_focused()
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 100))")
    expect(text(page)).to_have_text("an answer")
    assert re.search(r"#[0-9a-f]{24}$", page.url)


def test_two_tabs_lose_nothing_of_one_conversation(server: Server, new_page: NewPage):
    first = ready(opened(server, new_page()))
    answer_with(first, stream("one", end=COMPLETE))
    ask(first, "from the first tab")
    expect(text(first)).to_have_text("one")
    second = new_page()
    second.goto(first.url)
    expect(text(ready(second))).to_have_text("one")
    answer_with(second, stream("two", end=COMPLETE))
    ask(second, "from the second tab")
    expect(text(second)).to_have_text("two")
    expect(text(first)).to_have_text("two")
    ask(first, "and again from the first")
    expect(questions(second)).to_have_count(3)
    assert sorted(kept(first)) == sorted(
        ["from the first tab", "one", "from the second tab", "two", "and again from the first", "one"]
    )


def test_two_tabs_that_write_at_once_keep_both_answers(server: Server, new_page: NewPage):
    write = """async () => {
        const entry = document.querySelector("script[type=module]").src;
        const load = (name) => import(new URL(name, entry));
        const [{ openStore }, { newConversation, addMessage, removeMessage }] = await Promise.all(
            [load("./store.js"), load("./conversation.js")]);
        const stores = [await openStore(), await openStore()];
        const begun = newConversation("");
        const question = addMessage(begun, null, "user", "question");
        await stores[0].put(begun);
        const tabs = [begun, await stores[1].get(begun.id)];
        const written = tabs.map((conversation) => addMessage(conversation, question.id, "assistant", ""));
        const failed = addMessage(tabs[0], question.id, "assistant", "");
        for (const word of ["a", "b", "c"]) {
            for (const index of [0, 1]) {
                written[index].content += word + index;
                await stores[index].put(tabs[index]);
            }
        }
        removeMessage(tabs[0], failed);
        await stores[0].put(tabs[0]);
        await stores[1].put(tabs[1]);
        const kept = await stores[0].get(begun.id);
        return [kept.messages.map(({ content }) => content), stores[0].isShared(tabs[0])];
    }"""
    contents, is_shared = ready(opened(server, new_page())).evaluate(write)
    assert sorted(contents) == ["a0b0c0", "a1b1c1", "question"]
    assert is_shared


def test_a_full_disk_is_told_once(server: Server, new_page: NewPage):
    page = new_page()
    page.add_init_script(
        """const put = IDBObjectStore.prototype.put;
        IDBObjectStore.prototype.put = function (value) {
            const request = put.call(this, value);
            request.addEventListener("success", () => request.transaction.abort());  // as Chromium does at the commit
            return request;
        };"""
    )
    limit(page, 90)
    ask(ready(opened(server, page)), "a question")
    expect(page.locator(".notice")).to_contain_text("could not keep the conversation")
    expect(answers(page).locator(".figures")).to_contain_text("90 tokens")
    expect(page.locator(".notice")).to_have_count(1)


def test_a_page_whose_data_was_cleared_goes_on(server: Server, new_page: NewPage):
    page = ready(opened(server, new_page()))
    page.evaluate("indexedDB.deleteDatabase('fast-inference')")
    page.context.new_cdp_session(page).send(
        "Storage.clearDataForOrigin", {"origin": server.url, "storageTypes": "indexeddb"}
    )
    answer_with(page, stream("an answer"))
    ask(page, "a question")
    expect(text(page)).to_have_text("an answer")
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("heading", name="What can I do for you?")).to_be_visible()
    ask(page, "another one")
    expect(text(page)).to_have_text("an answer")


def test_a_title_that_is_being_typed_survives_what_happens_meanwhile(server: Server, new_page: NewPage):
    page = ready(opened(server, new_page()))
    answer_with(page, stream("an answer"))
    ask(page, "a question")
    expect(text(page)).to_have_text("an answer")
    page.get_by_role("button", name="Rename").click()
    title = page.get_by_label("New title")
    title.fill("Half of")
    page.evaluate("new BroadcastChannel('fast-inference').postMessage('changed')")  # as another tab does
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 100))")
    typed_with_input_method(page, "#conversations input")
    title.press_sequentially(" it")
    title.press("Enter")
    expect(page.get_by_role("link", name="Half of it")).to_be_visible()


def test_the_focus_stays_in_the_list_while_another_tab_writes(server: Server, new_page: NewPage):
    page = ready(opened(server, new_page()))
    answer_with(page, stream("an answer"))
    ask(page, "a question")
    expect(text(page)).to_have_text("an answer")
    entry = page.get_by_role("link", name="a question")
    entry.focus()
    page.evaluate("new BroadcastChannel('fast-inference').postMessage('another')")
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 100))")
    expect(entry).to_be_focused()


def test_the_keys_of_an_input_method_send_nothing(server: Server, new_page: NewPage):
    page = ready(opened(server, new_page()))
    prompt(page).fill("にほん")
    typed_with_input_method(page, "#prompt")
    expect(questions(page)).to_have_count(0)
    expect(prompt(page)).to_have_value("にほん")


def test_what_is_no_object_in_a_stream_is_an_error_like_others(server: Server, new_page: NewPage):
    page = ready(opened(server, new_page()))
    answer_with(page, stream("begun", end="data: null\n\n"))
    ask(page, "a question")
    expect(page.get_by_role("alert")).to_contain_text("no part of an answer")
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_role("heading", name="What can I do for you?")).to_be_visible()


def test_a_server_that_comes_back_with_another_model_is_asked_for_that(server: Server, new_page: NewPage):
    page = ready(opened(server, new_page(may_complain=True)))
    error = {"error": {"message": "The model `fake` does not exist.", "code": "model_not_found", "status": 404}}
    answer_with(page, json.dumps(error), status=404, content_type="application/json")
    models = {"object": "list", "data": [{"id": "other", "max_model_len": 100}]}
    page.route("**/v1/models", lambda route: route.fulfill(json=models))
    ask(page, "a question")
    expect(page.get_by_role("alert")).to_contain_text("does not exist")
    expect(page.get_by_label("Model", exact=True)).to_have_value("other")


def test_a_server_that_hangs_is_shown_as_unreachable(server: Server, new_page: NewPage):
    page = new_page()
    page.clock.install()
    ready(opened(server, page))
    expect(page.get_by_role("status").first).to_have_text("ready")
    page.route("**/health", lambda route: None)
    page.clock.run_for(30_000)
    expect(page.get_by_role("status").first).to_have_text("unreachable")


def test_a_key_that_no_header_can_carry_is_asked_for_again(server: Server, new_page: NewPage):
    page = opened(server, new_page(api_key="\u200bkey"))
    expect(page.get_by_role("dialog", name="API key")).to_contain_text("does not know this key")


def test_a_key_is_used_where_the_browser_keeps_nothing(server: Server, new_page: NewPage):
    page = new_page(api_key="", may_complain=True)
    page.add_init_script(
        """for (const name of ["localStorage", "sessionStorage"]) {
            Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });
        }"""
    )
    opened(server, page)
    page.get_by_role("dialog").get_by_label("API key").fill(API_KEY)
    page.get_by_role("button", name="Use this key").click()
    ready(page)
