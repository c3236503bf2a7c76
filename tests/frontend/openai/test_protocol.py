"""The bodies: strict scalars, nulls, and the forms that fields can take."""

import gc
import time
from typing import Any

import pytest
from pydantic import ValidationError

from frontend.openai.protocol import (
    MAX_CONTENT_PARTS,
    MAX_MESSAGES,
    MAX_TOOL_CALLS,
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    GenerationBody,
)

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


PART = {"type": "text", "text": "x"}


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": CHAT["messages"] * (MAX_MESSAGES + 1)},
        {"messages": [{"role": "user", "content": [PART] * (MAX_CONTENT_PARTS + 1)}]},
        {"messages": [{"role": "assistant", "tool_calls": [{}] * (MAX_TOOL_CALLS + 1)}]},
        {"stop_token_ids": [1] * 1025},
        {"messages": [{"role": "robot"}] * 4096},
        {"messages": [5] * 1_000_000},
        {"messages": [{"role": "user", "content": [5] * 1_000_000}]},
        {"messages": [{"role": "user", "content": [{"type": 5}] * 1024}]},
        {"messages": [{"role": "assistant", "tool_calls": [5] * 1_000_000}]},
        {"stop": [5] * 1_000_000},
        {"stop_token_ids": ["x"] * 1_000_000},
    ],
)
def test_a_long_wrong_list_has_few_errors_and_is_refused_quickly(fields: dict[str, Any]):
    gc.disable()  # a collection of the tests' own objects is no work of the body
    began_at = time.thread_time()
    with pytest.raises(ValidationError) as caught:
        ChatCompletionRequest.model_validate({**CHAT, **fields})
    seconds = time.thread_time() - began_at
    gc.enable()
    assert seconds < 0.5
    assert caught.value.error_count() <= 3


def test_lists_at_their_limits_are_taken():
    call = {"function": {"name": "f"}}
    message = {"role": "assistant", "content": [PART] * MAX_CONTENT_PARTS, "tool_calls": [call] * MAX_TOOL_CALLS}
    fields = {"messages": [*CHAT["messages"] * (MAX_MESSAGES - 1), message], "stop_token_ids": [1] * 1024}
    assert len(ChatCompletionRequest.model_validate({**CHAT, **fields}).messages) == MAX_MESSAGES


@pytest.mark.parametrize(("prompt", "num_answers"), [("ab", 3), ([1, 2], 3), (["a", "b"], 6), ([[1], [2], [3]], 9)])
def test_answers_are_prompts_times_n(prompt: object, num_answers: int):
    assert CompletionRequest.model_validate({"model": "m", "prompt": prompt, "n": 3}).num_answers == num_answers
