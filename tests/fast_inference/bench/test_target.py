"""Addresses, models and the bytes of a request."""

import asyncio
import json

import pytest

from fast_inference.bench.target import CHAT_COMPLETIONS, RequestOptions, Target
from fast_inference.bench.workload import Prompt
from ipc.errors import ConfigError
from tests.scripted_server import ScriptedServer, response

CHAT = RequestOptions(CHAT_COMPLETIONS)
MESSAGES = [{"role": "user", "content": "a"}]


def body_of(request: bytes) -> dict:
    head, _, body = request.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    return json.loads(body)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h:1", "http://h:1"),
        ("http://h:1/v1/", "http://h:1"),
        ("http://h/root/v1", "http://h:80/root"),
        ("http://[::1]:5", "http://[::1]:5"),
    ],
)
def test_a_base_url_may_end_with_the_version(url, shown):
    assert Target.parse(url).url == shown


@pytest.mark.parametrize("url", ["https://h:1", "h:1", "http://", "http://h:x", "http://h:99999"])
def test_what_is_no_base_url_is_refused(url):
    with pytest.raises(ConfigError, match="is no "):
        Target.parse(url)


def test_a_completion_asks_for_exactly_so_many_tokens():
    target = Target("t", "h", 1, "/root", "m")
    request = target.request(Prompt("a b", 9), RequestOptions(api_key="k"))
    assert request.startswith(b"POST /root/v1/completions HTTP/1.1\r\nhost: h:1\r\n")
    assert b"\r\nauthorization: Bearer k\r\n" in request
    body = body_of(request)
    assert (body["model"], body["prompt"], body["max_tokens"], body["ignore_eos"]) == ("m", "a b", 9, True)
    assert (body["stream"], body["stream_options"], body["temperature"]) == (True, {"include_usage": True}, 0)


def test_a_chat_has_messages():
    target = Target("t", "h", 1)
    assert body_of(target.request(Prompt("a", 9), CHAT))["messages"] == MESSAGES
    assert body_of(target.request(Prompt(list(MESSAGES), 9), CHAT))["messages"] == MESSAGES


def test_own_fields_win():
    options = RequestOptions(ignore_eos=False, extra_body={"temperature": 1, "n": 2}, keep_alive=False)
    request = Target("t", "h", 1).request(Prompt([1, 2], 9), options)
    body = body_of(request)
    assert (body["temperature"], body["n"], body["prompt"]) == (1, 2, [1, 2])
    assert "ignore_eos" not in body
    assert b"\r\nconnection: close\r\n" in request


@pytest.mark.parametrize(("content", "options"), [(MESSAGES, RequestOptions()), ([1, 2], CHAT)])
def test_a_prompt_that_the_endpoint_does_not_take_is_refused(content, options):
    with pytest.raises(ConfigError, match="needs --endpoint"):
        Target("t", "h", 1).request(Prompt(content, 9), options)


def model_of(answer: bytes, model: str | None = None) -> str:
    async def run():
        async with ScriptedServer(lambda _: [answer]) as server:
            return await Target.parse(server.url).with_model(RequestOptions(), model)

    return asyncio.run(run()).model


def test_the_model_is_the_first_that_the_server_lists():
    assert model_of(response(b'{"data": [{"id": "a"}, {"id": "b"}]}')) == "a"


def test_a_given_model_is_not_asked_for():
    assert model_of(response(b"", "500 No"), "mine") == "mine"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (response(b'{"data": []}'), "lists no model; name one with --model"),
        (response(b"{"), "lists no model"),
        (response(b'{"error": {"message": "key?"}}', "401 No"), r"HTTP 401: key\? \(give it with --api-key\)"),
    ],
)
def test_a_server_without_models_is_one_line(answer, message):
    with pytest.raises(ConfigError, match=message) as error:
        model_of(answer)
    assert "\n" not in error.value.message
