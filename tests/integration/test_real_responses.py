"""/v1/responses and /v1/messages with SmolLM2, the former through OpenAI's client."""

import json
from typing import Literal

import pytest
from pydantic import BaseModel

from tests.servers import Server

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

MODEL = "smollm2-135m-instruct"
QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."


class Animal(BaseModel):
    """What a structured answer is read as."""

    name: Literal["cat", "dog"]
    legs: int


@pytest.fixture(scope="module")
def server(smollm2_dir, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("smollm2"), MODEL, "--dtype", "float32")
    yield server
    server.close()


@pytest.fixture
def client(server):
    with server.openai() as client:
        yield client


def test_it_knows_the_capital_of_france(client):
    response = client.responses.create(model=MODEL, input=QUESTION, temperature=0)
    assert (response.status, response.output_text) == ("completed", ANSWER)


def test_a_stream_assembled_by_the_client_is_the_whole_answer(client):
    request = {"model": MODEL, "input": "Write one sentence about the sea. Use an emoji.", "temperature": 0}
    whole = client.responses.create(**request)
    with client.responses.stream(**request) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == whole.output_text
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_a_conversation_goes_on(client):
    first = client.responses.create(model=MODEL, input=QUESTION, temperature=0)
    items = [{"role": "user", "content": QUESTION}, *first.output, {"role": "user", "content": "Repeat the answer."}]
    response = client.responses.create(model=MODEL, input=items, temperature=0, max_output_tokens=20)
    assert "Paris" in response.output_text


def test_a_schema_is_followed(client):
    response = client.responses.parse(model=MODEL, input="Describe a cat.", text_format=Animal, temperature=0)
    assert isinstance(response.output_parsed, Animal)


def test_messages(server):
    body = {"model": MODEL, "max_tokens": 20, "temperature": 0, "messages": [{"role": "user", "content": QUESTION}]}
    with server.http() as http:
        message = http.post("/v1/messages", json=body).json()
        with http.stream("POST", "/v1/messages", json=body | {"stream": True}) as stream:
            events = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    assert message["content"][0]["text"] == ANSWER
    assert message["stop_reason"] == "end_turn"
    deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(deltas) == ANSWER
