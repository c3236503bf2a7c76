"""/v1/responses over HTTP, through OpenAI's client, on the fake model."""

import httpx
import openai
import pytest

from tests.processes import stats
from tests.waiting import wait_until

REQUEST = {"model": "fake", "input": "Tell me more.", "max_output_tokens": 20, "temperature": 0}
LONG = {"model": "fake", "input": "x", "max_output_tokens": 3000, "extra_body": {"ignore_eos": True}}


@pytest.fixture
def client(fake_server):
    with fake_server.openai() as client:
        yield client


@pytest.fixture
def post(fake_server):
    with fake_server.http() as http:
        yield lambda **fields: http.post("/v1/responses", json=REQUEST | fields)


def test_an_answer_is_that_of_the_chat_completion(client):
    response = client.responses.create(**REQUEST)
    messages = [{"role": "user", "content": REQUEST["input"]}]
    chat = client.chat.completions.create(model="fake", messages=messages, max_completion_tokens=20, temperature=0)
    assert response.output_text == chat.choices[0].message.content
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (response.usage.input_tokens, response.usage.output_tokens) == (
        chat.usage.prompt_tokens,
        chat.usage.completion_tokens,
    )


def test_a_stream_is_the_same_answer(client):
    whole = client.responses.create(**REQUEST)
    events = list(client.responses.create(**REQUEST, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert len(deltas) > 1
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == whole.output_text
    assert last.response.usage.output_tokens == whole.usage.output_tokens


def test_events_carry_their_names(fake_server):
    with fake_server.http() as http, http.stream("POST", "/v1/responses", json=REQUEST | {"stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[0] == "event: response.created"
    assert lines[-2] == "event: response.incomplete"


def test_a_conversation_with_instructions(client):
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        *client.responses.create(**REQUEST).output,
        {"role": "user", "content": "Go on."},
    ]
    response = client.responses.create(**REQUEST | {"input": items}, instructions="Be kind.")
    assert response.usage.input_tokens > client.responses.create(**REQUEST | {"input": items}).usage.input_tokens


def test_log_probabilities(client):
    request = REQUEST | {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole = client.responses.create(**request).output[0].content[0].logprobs
    assert len(whole) == 20
    assert len(whole[0].top_logprobs) == 2
    last = list(client.responses.create(**request, stream=True))[-1]
    assert last.response.output[0].content[0].logprobs == whole


def test_stop_strings_complete_an_answer(client):
    text = client.responses.create(**REQUEST).output_text
    response = client.responses.create(**REQUEST, extra_body={"stop": [text[5:9]]})
    assert (response.status, response.output_text) == ("completed", text[: text.index(text[5:9])])


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"previous_response_id": "resp_1"}, 400, "previous_response_id", "unsupported_parameter"),
        ({"conversation": "conv_1"}, 400, "conversation", "unsupported_parameter"),
        ({"background": True}, 400, "background", "unsupported_parameter"),
        ({"store": True}, 400, "store", "unsupported_parameter"),
        ({"prompt": {"id": "p"}}, 400, "prompt", "unsupported_parameter"),
        ({"max_tokens": 5}, 400, "max_tokens", "unsupported_parameter"),
        ({"input": [{"type": "item_reference"}]}, 400, "input.0.type", "unsupported_parameter"),
        ({"truncation": "auto"}, 400, "truncation", "unsupported_parameter"),
        ({"model": "other"}, 404, "model", "model_not_found"),
        ({"temperature": 3}, 400, "temperature", "invalid_value"),
        ({"max_output_tokens": 10**6}, 400, "input", "context_length_exceeded"),
        ({"input": "a " * 5000}, 400, "input", "context_length_exceeded"),
        ({"input": None}, 400, "input", "missing_required_parameter"),
        ({"text": {"format": {"type": "json_schema"}}}, 400, "text.format.name", "missing_required_parameter"),
        (
            {"text": {"format": {"type": "json_schema", "name": "?", "schema": {}}}},
            400,
            "text.format",
            "invalid_value",
        ),
    ],
)
def test_refusals_name_fields_of_this_api(post, fields, status, param, code):
    response = post(**fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code), error["message"]


@pytest.mark.parametrize("fields", [{"store": False}, {"background": False}, {"previous_response_id": None}])
def test_what_asks_for_nothing_is_accepted(post, fields):
    assert post(**fields).status_code == 200


def test_unknown_fields_are_reported(post):
    assert post(frobnicate=1, verbosity=2).headers["x-ignored-params"] == "frobnicate, verbosity"


def test_a_failure_in_a_stream_is_its_last_event(client):
    request = LONG | {"extra_body": {"ignore_eos": True, "timeout": 0.3}}
    events = list(client.responses.create(**request, stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.code == "server_error"
    assert events[-2].type == "response.output_text.delta"


def test_a_failure_of_a_whole_answer_is_a_status(client):
    with pytest.raises(openai.InternalServerError) as caught:
        client.responses.create(**LONG | {"extra_body": {"ignore_eos": True, "timeout": 0.3}})
    assert (caught.value.status_code, caught.value.code) == (504, "timeout")


def test_a_client_that_leaves_a_stream_stops_its_request(fake_server):
    body = {"model": "fake", "input": "x", "max_output_tokens": 3000, "ignore_eos": True, "stream": True}
    with fake_server.connect() as core, fake_server.http() as http:
        with http.stream("POST", "/v1/responses", json=body):
            wait_until(lambda: stats(core)["num_running"] == 1)
        wait_until(lambda: stats(core)["num_running"] == 0, timeout_s=2)


def test_a_client_that_does_not_wait_stops_its_request(fake_server):
    body = {"model": "fake", "input": "x", "max_output_tokens": 3000, "ignore_eos": True}
    with fake_server.connect() as core, fake_server.http() as http:
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/responses", json=body, timeout=0.3)
        wait_until(lambda: stats(core)["num_running"] == 0, timeout_s=2)


def test_an_answer_that_is_sent_back_has_no_unknown_fields(post):
    output = post().json()["output"]
    assert "x-ignored-params" not in post(input=[{"role": "user", "content": "Hi"}, *output]).headers
