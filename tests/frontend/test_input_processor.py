"""From bodies to engine inputs: defaults, limits, fan-out."""

import asyncio
from typing import Any

import pytest

from frontend.input_processor import EngineInput, chat_inputs, check_num_answers, completion_inputs
from frontend.openai.protocol import ChatCompletionRequest, CompletionRequest
from frontend.state import ServedModel
from ipc.errors import ContextLengthError, InvalidRequestError
from ipc.sampling_params import MAX_SEED


def chat(model: ServedModel, content: str = "hi", **fields: Any) -> list[EngineInput]:
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}], **fields}
    return asyncio.run(chat_inputs(model, ChatCompletionRequest.model_validate(body)))


def complete(model: ServedModel, prompt: object, **fields: Any) -> list[EngineInput]:
    body = CompletionRequest.model_validate({"model": "tiny", "prompt": prompt, **fields})
    return asyncio.run(completion_inputs(model, body))


def test_a_chat_may_fill_the_context(model: ServedModel):
    (item,) = chat(model)
    assert len(item.prompt_token_ids) + item.sampling_params.max_tokens == model.max_model_len


def test_a_chat_is_written_in_the_template(model: ServedModel):
    (item,) = chat(model)
    text = model.tokenizer.decode(item.prompt_token_ids)
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_a_completion_has_16_tokens_by_default_or_what_is_left(model: ServedModel):
    assert complete(model, [5])[0].sampling_params.max_tokens == 16
    assert complete(model, [5] * 60)[0].sampling_params.max_tokens == 4


def test_n_answers_have_consecutive_seeds(model: ServedModel):
    assert [item.sampling_params.seed for item in chat(model, n=3, seed=7)] == [7, 8, 9]


def test_seeds_wrap_around(model: ServedModel):
    seeds = [item.sampling_params.seed for item in chat(model, n=2, seed=MAX_SEED)]
    assert seeds == [MAX_SEED, -MAX_SEED - 1]


def test_without_a_seed_each_request_draws_one(model: ServedModel):
    assert chat(model)[0].sampling_params.seed != chat(model)[0].sampling_params.seed


def test_choices_go_prompt_by_prompt(model: ServedModel):
    items = complete(model, [[5], [6]], n=2)
    assert [item.prompt_token_ids for item in items] == [[5], [5], [6], [6]]


@pytest.mark.parametrize("top_k", [-1, 0])
def test_top_k_can_be_off_in_two_ways(model: ServedModel, top_k: int):
    assert chat(model, top_k=top_k)[0].sampling_params.top_k == 0


@pytest.mark.parametrize("fields", [{"max_tokens": 60}, {"max_completion_tokens": 10**9}])
def test_prompt_and_answer_must_fit_together(model: ServedModel, fields: dict[str, int]):
    with pytest.raises(ContextLengthError, match="64") as caught:
        chat(model, **fields)
    assert caught.value.param == "messages"


@pytest.mark.parametrize("prompt", [[5] * 64, [5] * 100, "日" * 64])
def test_a_prompt_without_room_for_an_answer_is_refused(model: ServedModel, prompt: object):
    with pytest.raises(ContextLengthError) as caught:
        complete(model, prompt)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("token_id", [-1, 340, 2**31, 2**63])
def test_ids_out_of_the_vocabulary_are_refused(model: ServedModel, token_id: int):
    with pytest.raises(InvalidRequestError) as caught:
        complete(model, [[1], [5, token_id]])
    assert caught.value.param == "prompt"
    with pytest.raises(InvalidRequestError) as caught:
        chat(model, stop_token_ids=[token_id])
    assert caught.value.param == "stop_token_ids"


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -0.1), ("temperature", 2.1), ("top_p", 0.0), ("top_p", 1.1), ("top_k", -2), ("min_p", 1.5)],
)
def test_sampling_parameters_out_of_range_are_named(model: ServedModel, name: str, value: float):
    with pytest.raises(InvalidRequestError) as caught:
        chat(model, **{name: value})
    assert caught.value.param == name


def test_the_number_of_answers_is_bounded():
    check_num_answers(CompletionRequest.model_validate({"model": "tiny", "prompt": [[5]] * 8, "n": 128}))
    with pytest.raises(InvalidRequestError) as caught:
        check_num_answers(CompletionRequest.model_validate({"model": "tiny", "prompt": [[5]] * 9, "n": 128}))
    assert caught.value.param == "n"
