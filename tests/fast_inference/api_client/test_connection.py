"""The command line's HTTP client: streams, refusals, and servers that break off."""

import asyncio
import json
import re

import pytest

from fast_inference.api_client.connection import ApiClient, ApiError
from ipc.errors import ConfigError
from tests.scripted_server import CLOSE, PAUSE, ScriptedServer, event, response, stream_head


def ask(answer, use, **options):
    """What `use` makes of a client of a server with this script, and the requests that came."""

    async def run():
        async with ScriptedServer(answer) as server:
            result = await asyncio.to_thread(use, ApiClient(server.url + "/v1/", **options))
            return result, server.requests

    return asyncio.run(run())


def failure(answer, use=lambda client: list(client.stream("/v1/completions", {}))):
    with pytest.raises(ApiError) as caught:
        ask(answer, use)
    assert "\n" not in caught.value.message
    return caught.value


def test_a_stream_is_its_chunks_up_to_done():
    parts = [stream_head(), ": ping\n\n", event({"a": 1})[:5], PAUSE, event({"a": 1})[5:], event(b"[DONE]"), CLOSE]
    chunks, (request,) = ask(
        lambda _: [part.encode() if part == ": ping\n\n" else part for part in parts],
        lambda client: list(client.stream("/v1/completions", {"prompt": "ä"})),
        api_key="secret",
    )
    assert chunks == [{"a": 1}]
    assert request.body == {"prompt": "ä", "stream": True}
    assert "authorization: bearer secret" in request.head.lower()


def test_a_stream_without_done_is_an_error():
    assert failure(lambda _: [stream_head(), event({"a": 1}), CLOSE]).message == (
        "the answer ended before it was complete"
    )


def test_an_error_in_the_middle_of_a_stream_has_its_code():
    error = failure(lambda _: [stream_head(), event({"error": {"message": "no\nmore", "code": "core_lost"}}), CLOSE])
    assert (error.message, error.code) == ("no more", "core_lost")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b'{"error": {"message": "bad", "code": "x"}}', "400 Bad", "bad"),
        (b'{"detail": "none"}', "403 Forbidden", "none"),
        (b'{"error": {"message": "no\\u001b[2J model", "code": "model_not_found"}}', "404 Not Found", "no[2J model"),
        (b'["odd"]', "500 Oops", "['odd']"),
        (b"<html>", "502 Bad Gateway", "HTTP 502 <html>"),
        (
            b'{"error": {"message": "No key."}}',
            "401 No",
            "No key. (give it with --api-key, or in FAST_INFERENCE_API_KEY)",
        ),
    ],
)
def test_refusals_are_what_the_server_says(body, status, message):
    assert failure(lambda _: [response(body, status)]).message == message


@pytest.mark.parametrize(
    "body", [b'{"detail": "Not Found"}', b'{"error": {"message": "Not Found", "code": "not_found"}}']
)
def test_a_path_that_is_not_there_is_named_with_the_url(body):
    message = failure(lambda _: [response(body, "404 Not Found")]).message
    assert re.fullmatch(r"http://\S+/v1/completions: Not Found \(is http://\S+ the base URL of an .*\)", message)


def test_a_redirect_names_the_place():
    head = "Location: https://elsewhere/v1/models"
    error = failure(lambda _: [response(b"<html>", "301 Moved", head)], lambda client: client.get("/v1/models"))
    assert error.message.endswith("/v1/models has moved to https://elsewhere/v1/models: name that with --url")


@pytest.mark.parametrize("script", [[b"not HTTP at all\r\n\r\n", CLOSE], [CLOSE], [response(b"not JSON")]])
def test_what_is_no_api_is_one_line(script):
    failure(lambda _: script, lambda client: client.get("/v1/models"))


def test_a_port_where_nothing_listens():
    with pytest.raises(ApiError, match=r"nothing listens on http://127\.0\.0\.1:1: "):
        ApiClient("127.0.0.1:1").get("/v1/models")


def test_a_server_that_loads_is_waited_for():
    answers = [
        response(json.dumps({"error": {"message": "The engine is loading."}}).encode(), "503 No"),
        response(b"{}"),
    ]
    told = []
    ask(lambda request: [answers[request.number]], lambda client: client.wait_ready(told.append))
    assert told == ["waiting for the server: The engine is loading."]


def test_models_are_their_names():
    names, _ = ask(lambda _: [response(b'{"data": [{"id": "a"}, {"id": "b"}]}')], ApiClient.model_names)
    assert names == ["a", "b"]


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://h:99999", "http://[::1"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ConfigError, match=r"^--url: "):
        ApiClient(url)


def test_a_key_that_would_break_the_head_is_refused_and_not_shown():
    with pytest.raises(ConfigError) as caught:
        ApiClient("http://h", "secret\r\nX-Evil: 1")
    assert "secret" not in caught.value.message
