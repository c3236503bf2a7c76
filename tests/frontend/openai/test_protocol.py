"""The bodies: strict scalars, nulls, and the forms that fields can take."""

from typing import Any

import pytest
from pydantic import ValidationError

from frontend.openai.protocol import ChatCompletionRequest, CompletionRequest, EmbeddingRequest, GenerationBody

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
NUMBERS = ["max_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "n", "priority"]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [True, "1", [], {}, 1j])
def test_numbers_are_strict(name: str, value: object):
    with pytest.raises(ValidationError):
        ChatCompletionRequest.model_validate({**CHAT, name: value})


@pytest.mark.parametrize("name", ["max_tokens", "top_k", "seed", "n"])
def test_integers_are_no_floats(name: str):
    with pytest.raises(ValidationError):
        ChatCompletionRequest.model_validate({**CHAT, name: 1.0})


def test_an_integer_may_stand_for_a_float():
    assert ChatCompletionRequest.model_validate({**CHAT, "temperature": 0}).temperature == 0.0


@pytest.mark.parametrize("name", sorted(ChatCompletionRequest.model_fields.keys() - {"model", "messages"}))
def test_null_is_as_good_as_absent(name: str):
    explicit = ChatCompletionRequest.model_validate({**CHAT, name: None})
    assert explicit == ChatCompletionRequest.model_validate(CHAT)


@pytest.mark.parametrize("prompt", ["a", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_prompts_come_in_four_forms(prompt: object):
    assert CompletionRequest.model_validate({"model": "m", "prompt": prompt}).prompt == prompt
    assert EmbeddingRequest.model_validate({"model": "m", "input": prompt}).input == prompt


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], [[1], []], 5, [1.5], [True, 1], ["a", 1], [[1], ["a"]], {}])
def test_other_prompts_are_refused(prompt: object):
    with pytest.raises(ValidationError):
        CompletionRequest.model_validate({"model": "m", "prompt": prompt})


@pytest.mark.parametrize("stop", ["", [""], ["a"] * 17, "a" * 257, 5, ["a", 5]])
def test_stop_strings_are_bounded(stop: object):
    with pytest.raises(ValidationError):
        ChatCompletionRequest.model_validate({**CHAT, "stop": stop})


def test_stop_may_be_one_string_or_several():
    one = GenerationBody.model_validate({"model": "m", "stop": "a"})
    several = GenerationBody.model_validate({"model": "m", "stop": ["a", "b"]})
    assert (one.stop_strings, several.stop_strings) == (("a",), ("a", "b"))


def test_max_completion_tokens_goes_before_max_tokens():
    body = ChatCompletionRequest.model_validate({**CHAT, "max_tokens": 5, "max_completion_tokens": 7})
    assert body.num_max_tokens == 7
