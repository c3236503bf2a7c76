"""From bodies to sampling parameters."""

import asyncio
from typing import Any

import pytest

from frontend.openai.protocol import ChatCompletionRequest, CompletionRequest
from frontend.sampling import fitted, sampling_params_of
from frontend.state import ServedModel
from ipc.errors import InvalidRequestError
from ipc.sampling_params import SamplingParams, TokenBias


def complete(model: ServedModel, **fields: Any) -> SamplingParams:
    body = CompletionRequest.model_validate({"model": "tiny", "prompt": "x", **fields})
    params = asyncio.run(sampling_params_of(model, body))
    return fitted(params, model, body, 10, param="prompt", default_max_tokens=16)


def chat(model: ServedModel, **fields: Any) -> SamplingParams:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], **fields}
    return asyncio.run(sampling_params_of(model, ChatCompletionRequest.model_validate(body)))


@pytest.mark.parametrize(
    ("field", "value"), [("temperature", 0.5), ("top_p", 0.4), ("top_k", 3), ("min_p", 0.2), ("top_n_sigma", 1.5)]
)
def test_fields_of_the_distribution_go_to_the_sampler(model: ServedModel, field: str, value: float):
    assert getattr(complete(model, **{field: value}), field) == value
    assert getattr(chat(model, **{field: value}), field) == value


def test_biases_name_tokens(model: ServedModel):
    assert complete(model, logit_bias={"5": 1, "6": -0.5}).logit_bias == (TokenBias(5, 1.0), TokenBias(6, -0.5))


@pytest.mark.parametrize(
    ("fields", "number"), [({}, -1), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 3}, 3)]
)
def test_a_chat_asks_for_best_tokens(model: ServedModel, fields: dict[str, Any], number: int):
    assert chat(model, **fields).num_logprobs == number


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({}, (-1, -1)),
        ({"logprobs": 2}, (2, -1)),
        ({"logprobs": 2, "echo": True}, (2, 2)),
        ({"logprobs": 2, "echo": True, "prompt_logprobs": 5}, (2, 5)),
        ({"echo": True}, (-1, -1)),
        ({"best_of": 2}, (0, -1)),
        ({"best_of": 2, "n": 2}, (-1, -1)),
    ],
)
def test_a_completion_asks_for_what_it_shows_or_ranks_by(
    model: ServedModel, fields: dict[str, Any], numbers: tuple[int, int]
):
    params = complete(model, **fields)
    assert (params.num_logprobs, params.num_prompt_logprobs) == numbers


def test_a_bad_word_is_forbidden_at_the_beginning_and_behind_a_space(model: ServedModel):
    found = complete(model, bad_words=["hello", " hello"]).bad_words_token_ids
    assert [model.tokenizer.decode(list(ids)) for ids in found] == ["hello", " hello"]


def test_many_bad_words_are_tokenized_too(model: ServedModel):
    words = [f"word {index} " + "z" * 30 for index in range(200)]
    assert len(complete(model, bad_words=words).bad_words_token_ids) == 400


def test_no_tokens_become_one_for_the_core(model: ServedModel):
    assert complete(model, max_tokens=0).max_tokens == 1
    with pytest.raises(InvalidRequestError) as caught:
        complete(model, max_tokens=0, min_tokens=1)
    assert caught.value.param == "min_tokens"
