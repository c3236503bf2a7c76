"""/v1/messages over HTTP on the fake model."""

import json

import httpx
import pytest

from tests.processes import stats
from tests.waiting import wait_until

HI = [{"role": "user", "content": "Tell me more."}]
REQUEST = {"model": "fake", "max_tokens": 20, "messages": HI, "temperature": 0}
LONG = REQUEST | {"max_tokens": 3000, "ignore_eos": True}
HEADERS = {"anthropic-version": "2023-06-01", "x-api-key": "any"}


@pytest.fixture
def post(fake_server):
    with fake_server.http() as http:
        yield lambda path="/v1/messages", **fields: http.post(path, json=REQUEST | fields, headers=HEADERS)


def events_of(server, **fields):
    """The stream's events, each with the name before it."""
    with (
        server.http() as http,
        http.stream("POST", "/v1/messages", json=REQUEST | fields | {"stream": True}) as response,
    ):
        assert response.status_code == 200
        lines = [line for line in response.iter_lines() if line and not line.startswith(":")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[1::2]]
    assert lines[::2] == [f"event: {event['type']}" for event in events]
    return events


def text_of(events):
    return "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")


def test_an_answer_is_that_of_the_chat_completion(fake_server, post):
    message = post().json()
    with fake_server.openai() as client:
        chat = client.chat.completions.create(model="fake", messages=HI, max_completion_tokens=20, temperature=0)
    assert message["content"] == [{"type": "text", "text": chat.choices[0].message.content, "citations": None}]
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", "fake")
    assert (message["stop_reason"], message["stop_sequence"]) == ("max_tokens", None)
    usage = message["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == chat.usage.prompt_tokens
    assert usage["output_tokens"] == chat.usage.completion_tokens


def test_a_stream_is_the_same_answer(fake_server, post):
    whole = post().json()
    events = events_of(fake_server)
    assert text_of(events) == whole["content"][0]["text"]
    assert [event["type"] for event in events[:3]] == ["message_start", "ping", "content_block_start"]
    assert [event["type"] for event in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert events[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    start = events[0]["message"]["usage"]
    assert start["input_tokens"] + start["cache_read_input_tokens"] > 0


def test_a_stop_sequence_is_told(fake_server, post):
    text = post().json()["content"][0]["text"]
    stop = text[5:9]
    message = post(stop_sequences=["never", stop]).json()
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", stop)
    assert message["content"][0]["text"] == text[: text.index(stop)]
    events = events_of(fake_server, stop_sequences=[stop])
    assert events[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": stop}


def test_answers_carry_the_request_id(post):
    response = post()
    assert response.headers["request-id"] == response.headers["x-request-id"]


def test_tokens_are_counted_as_the_prompt_has_them(post):
    blocks = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    count = post("/v1/messages/count_tokens", system="Be kind.", messages=blocks).json()
    usage = post(system="Be kind.", messages=blocks).json()["usage"]
    assert count == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    ("fields", "status", "error_type", "param", "code"),
    [
        ({"model": "other"}, 404, "not_found_error", "model", "model_not_found"),
        ({"messages": None}, 400, "invalid_request_error", "messages", "missing_required_parameter"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            400,
            "invalid_request_error",
            "messages.0.content.0.type",
            "unsupported_parameter",
        ),
        ({"container": "c"}, 400, "invalid_request_error", "container", "unsupported_parameter"),
        ({"mcp_servers": [{}]}, 400, "invalid_request_error", "mcp_servers", "unsupported_parameter"),
    ],
)
def test_refusals_have_anthropics_envelope(post, path, fields, status, error_type, param, code):
    response = post(path, **fields)
    assert response.status_code == status
    body = response.json()
    assert (body["type"], body["request_id"]) == ("error", response.headers["request-id"])
    error = body["error"]
    assert (error["type"], error["param"], error["code"]) == (error_type, param, code), error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 10**6}, "messages"),
        ({"messages": [{"role": "user", "content": "a " * 5000}]}, "messages"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "?"}}}}, "output_config.format"),
    ],
)
def test_wrong_values_are_named(post, fields, param):
    response = post(**fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_errors_of_the_router_have_the_envelope_too(fake_server):
    with fake_server.http() as http:
        response = http.get("/v1/messages")
        assert (response.status_code, response.json()["type"]) == (405, "error")
        assert response.headers["allow"] == "POST"
        response = http.post("/v1/messages/batches", json={})
        assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")


def test_a_failure_in_a_stream_is_its_last_event(fake_server):
    events = events_of(fake_server, **LONG, timeout=0.3)
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "timeout_error"
    assert events[-2]["type"] == "content_block_delta"


def test_a_client_that_does_not_wait_stops_its_request(fake_server):
    with fake_server.connect() as core, fake_server.http() as http:
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/messages", json=LONG, timeout=0.3)
        wait_until(lambda: stats(core)["num_running"] == 0, timeout_s=2)


def test_an_answer_that_is_sent_back_has_no_unknown_fields(post):
    turn = {"role": "assistant", "content": post().json()["content"]}
    assert "x-ignored-params" not in post(messages=[*HI, turn, *HI]).headers
