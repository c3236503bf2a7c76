"""A whole server with SmolLM2, talked to through the real OpenAI client."""

import json
import math
import os
import time
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel

from tests.servers import Server

pytestmark = [pytest.mark.model, pytest.mark.timeout(300), pytest.mark.alone]

MODEL = "smollm2-135m-instruct"
PARIS = "The capital of France is Paris."
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


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


def read(stream):
    """Text, finish reason and usage of a streamed chat answer."""
    chunks = list(stream)
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    text = "".join(choice.delta.content or "" for choice in choices)
    [reason] = [choice.finish_reason for choice in choices if choice.finish_reason]
    return text, reason, chunks[-1].usage


def test_it_knows_the_capital_of_france(client):
    answer = client.chat.completions.create(model=MODEL, messages=FRANCE, temperature=0, max_tokens=20)
    assert answer.choices[0].message.content == PARIS
    assert answer.choices[0].finish_reason == "stop"


def test_biases_bad_words_and_allowed_tokens_reach_the_sampler(client):
    request = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 3, "temperature": 0}
    plain = client.completions.create(**request, extra_body={"return_token_ids": True}).choices[0]
    assert plain.text.startswith(" Paris")
    first = plain.token_ids[0]
    assert not client.completions.create(**request, logit_bias={first: -100}).choices[0].text.startswith(" Paris")
    others = client.completions.create(**request, extra_body={"bad_words": ["Paris"]}).choices[0]
    assert not others.text.startswith(" Paris")
    only = client.completions.create(**request, extra_body={"allowed_token_ids": [first]}).choices[0]
    assert only.text == " Paris" * 3


@pytest.mark.parametrize("max_tokens", [5, 60])
def test_a_streamed_answer_equals_the_whole_one(client, max_tokens):
    messages = [{"role": "user", "content": "Write one sentence about the sea. Use an emoji."}]
    request = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": max_tokens}
    whole = client.chat.completions.create(**request)
    text, reason, usage = read(
        client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True})
    )
    assert text == whole.choices[0].message.content
    assert reason == whole.choices[0].finish_reason
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (
        whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens
    )  # fmt: skip


def test_usage_adds_up_and_length_is_told(client):
    answer = client.completions.create(model=MODEL, prompt="Once upon a time", max_tokens=7, temperature=0)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 7
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 7


def test_a_seed_repeats_a_random_answer(client):
    request = {"model": MODEL, "messages": FRANCE, "temperature": 1.0, "max_tokens": 20, "n": 2}
    first, again = (client.chat.completions.create(**request, seed=7) for _ in range(2))
    other = client.chat.completions.create(**request, seed=8000)
    texts = [[choice.message.content for choice in answer.choices] for answer in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0][0] != texts[0][1]


def test_a_repeated_prefix_comes_from_the_cache(server, client):
    with server.http() as http:
        ids = http.post("/v1/tokenize", json={"model": MODEL, "prompt": "The sea is wide. " * 200}).json()["tokens"]
    prefix = ids[:600]
    cached = []
    for tail in (ids[600:610], ids[650:660]):
        answer = client.completions.create(model=MODEL, prompt=prefix + tail, max_tokens=1)
        cached.append(answer.usage.prompt_tokens_details.cached_tokens)
    assert cached[0] == 0
    assert cached[1] >= 576


def test_embeddings_have_length_one_and_know_what_is_similar(client):
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "The stock market fell by two percent."]
    together = client.embeddings.create(model=MODEL, input=texts).data
    cat, kitten, market = (item.embedding for item in together)
    assert math.isclose(sum(value * value for value in cat), 1, rel_tol=1e-5)
    assert dot(cat, kitten) > dot(cat, market)


def test_an_embedding_does_not_depend_on_its_neighbours(client):
    texts = ["short", "a text that is quite a bit longer than the other one"]
    together = client.embeddings.create(model=MODEL, input=texts, encoding_format="float").data
    for text, item in zip(texts, together, strict=True):
        alone = client.embeddings.create(model=MODEL, input=text, encoding_format="float").data[0].embedding
        assert dot(alone, item.embedding) > 0.99999


def test_embeddings_of_mixed_lengths_equal_those_made_one_by_one(server, client):
    texts = ["The sea is wide. " * 90, "short", "A cat sleeps on the sofa. " * 7]
    together = client.embeddings.create(model=MODEL, input=texts, encoding_format="float").data
    for text, item in zip(texts, together, strict=True):
        alone = client.embeddings.create(model=MODEL, input=text, encoding_format="float").data[0].embedding
        assert max(abs(one - other) for one, other in zip(alone, item.embedding, strict=True)) < 1e-5


def test_shorter_embeddings_still_know_what_is_similar(client):
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "The stock market fell by two percent."]
    vectors = [item.embedding for item in client.embeddings.create(model=MODEL, input=texts, dimensions=128).data]
    assert [len(vector) for vector in vectors] == [128] * 3
    assert dot(vectors[0], vectors[0]) == pytest.approx(1)
    assert dot(vectors[0], vectors[1]) > dot(vectors[0], vectors[2])


def test_a_ranking_puts_the_similar_document_first(server):
    documents = ["The stock market fell by two percent.", "A kitten naps on the couch."]
    with server.http() as http:
        body = {"model": MODEL, "query": "A cat sleeps on the sofa.", "documents": documents}
        ranking = http.post("/v1/rerank", json=body).json()["results"]
        body = {"model": MODEL, "text_1": "A cat sleeps on the sofa.", "text_2": documents}
        scores = [item["score"] for item in http.post("/v1/score", json=body).json()["data"]]
    assert [item["index"] for item in ranking] == [1, 0]
    assert [item["relevance_score"] for item in ranking] == pytest.approx(scores[::-1])


def dot(left, right):
    return sum(one * other for one, other in zip(left, right, strict=True))


def test_tokens_become_the_same_text_again(server):
    with server.http() as http:
        tokens = http.post("/tokenize", json={"model": MODEL, "prompt": "Grüße 👋🏽 from 東京"}).json()["tokens"]
        text = http.post("/detokenize", json={"model": MODEL, "tokens": tokens}).json()["prompt"]
    assert text == "Grüße 👋🏽 from 東京"


@pytest.mark.parametrize("name", [MODEL, "fast-inference-model"])
def test_it_is_served_under_its_name_and_the_alias(client, name):
    assert name in [model.id for model in client.models.list()]
    assert client.models.retrieve(name).id == name


def test_a_response_is_that_of_the_chat_completion(client):
    response = client.responses.create(model=MODEL, input=FRANCE[0]["content"], temperature=0)
    assert (response.status, response.output_text) == ("completed", PARIS)


def test_a_streamed_response_is_the_whole_one(client):
    request = {"model": MODEL, "input": "Write one sentence about the sea. Use an emoji.", "temperature": 0}
    whole = client.responses.create(**request)
    with client.responses.stream(**request) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == whole.output_text
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_a_response_can_be_sent_back(client):
    first = client.responses.create(model=MODEL, input=FRANCE[0]["content"], temperature=0)
    items = [*FRANCE, *first.output, {"role": "user", "content": "Repeat the answer."}]
    response = client.responses.create(model=MODEL, input=items, temperature=0, max_output_tokens=20)
    assert "Paris" in response.output_text


def test_a_response_follows_a_schema(client):
    response = client.responses.parse(model=MODEL, input="Describe a cat.", text_format=Animal, temperature=0)
    assert isinstance(response.output_parsed, Animal)


def test_a_message_of_anthropics_api_is_it_too(server):
    body = {"model": MODEL, "max_tokens": 20, "temperature": 0, "messages": FRANCE}
    with server.http() as http:
        message = http.post("/v1/messages", json=body).json()
        with http.stream("POST", "/v1/messages", json=body | {"stream": True}) as stream:
            events = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    assert message["content"][0]["text"] == PARIS
    assert message["stop_reason"] == "end_turn"
    deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(deltas) == PARIS


def cpu_time_s(pids):
    """User and system time of all threads of these processes."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def test_nothing_spins_once_the_answers_are_given(server, client):
    client.chat.completions.create(model=MODEL, messages=FRANCE, max_tokens=8)
    pids = [server.process.pid, *server.child_pids]
    before = cpu_time_s(pids)
    time.sleep(4)
    assert cpu_time_s(pids) - before < 0.25  # beats take some 0.03; one spinning thread takes 4
