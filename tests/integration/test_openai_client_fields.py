"""The fields of OpenAI's own client: what it sends is taken, and what comes back fits its types."""

from typing import Literal

import openai
import pytest
from pydantic import BaseModel

MESSAGES = [{"role": "user", "content": "x"}]


class Mood(BaseModel):
    """A form that an answer can have."""

    mood: Literal["good", "bad"]
    level: int


@pytest.fixture
def client(fake_server):
    with fake_server.openai() as client:
        yield client


def test_the_client_parses_an_answer_into_its_class(client):
    answer = client.chat.completions.parse(
        model="fake", messages=MESSAGES, response_format=Mood, max_tokens=400, seed=1
    )
    assert isinstance(answer.choices[0].message.parsed, Mood)


def test_log_probabilities_of_a_stream_are_those_of_the_whole_answer(client):
    request = {
        "model": "fake", "messages": MESSAGES, "seed": 7, "temperature": 0, "logprobs": True, "top_logprobs": 3,
        "max_completion_tokens": 12, "frequency_penalty": 0.5, "presence_penalty": -0.5, "logit_bias": {"97": 1},
        "n": 2, "user": "me", "metadata": {"a": "b"}, "service_tier": "flex", "stop": ["zzz"],
    }  # fmt: skip
    whole = client.chat.completions.create(**request)
    assert whole.service_tier == "flex"
    streamed = {0: [], 1: []}
    with client.chat.completions.create(**request, stream=True) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                streamed[choice.index] += choice.logprobs.content if choice.logprobs else []
    for choice in whole.choices:
        assert choice.logprobs.content == streamed[choice.index]
        assert len(choice.logprobs.content) == 12


def test_a_completion_has_the_legacy_shape(client):
    answer = client.completions.create(
        model="fake", prompt=["ab", "cd"], max_tokens=3, logprobs=2, echo=True, best_of=2, n=1, seed=1
    )
    for choice, prompt in zip(answer.choices, ("ab", "cd"), strict=True):
        assert choice.text.startswith(prompt)
        assert choice.logprobs.token_logprobs[0] is None
        assert "".join(choice.logprobs.tokens) == choice.text


def test_a_refusal_names_the_field(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="fake", messages=MESSAGES, logit_bias={"97": 200})
    assert caught.value.param == "logit_bias"
