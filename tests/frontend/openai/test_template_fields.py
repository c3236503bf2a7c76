"""The fields that say how a conversation is written: what they accept, and what they exclude."""

from typing import Any

import pytest

from frontend.openai.protocol import ChatCompletionRequest, TokenizeRequest
from frontend.openai.protocol.template_fields import (
    MAX_DOCUMENTS,
    MAX_TEMPLATE_KWARGS,
    MAX_TEMPLATE_KWARGS_DEPTH,
    MAX_TEMPLATE_KWARGS_SIZE,
)
from frontend.openai.unsupported import check_supported
from frontend.request_body import validate_body
from ipc.errors import InvalidRequestError, UnsupportedParameterError

MESSAGES = [{"role": "user", "content": "x"}]


def body_of(**fields: Any) -> ChatCompletionRequest:
    return validate_body(ChatCompletionRequest, {"model": "m", "messages": MESSAGES, **fields})


def refused(**fields: Any) -> str | None:
    with pytest.raises(InvalidRequestError) as caught:
        body_of(**fields)
    return caught.value.param


def deep(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {"a": 1}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def test_by_default_an_answer_follows():
    options = body_of().render_options
    assert (options.add_generation_prompt, options.continue_final_message) == (True, False)
    assert (options.documents, options.tools, options.template_kwargs) == (None, None, {})


@pytest.mark.parametrize("fields", [{}, {"add_generation_prompt": False}, {"add_generation_prompt": None}])
def test_a_message_that_goes_on_has_no_generation_prompt(fields: dict[str, Any]):
    options = body_of(continue_final_message=True, **fields).render_options
    assert (options.add_generation_prompt, options.continue_final_message) == (False, True)


def test_a_generation_prompt_excludes_a_message_that_goes_on():
    assert refused(continue_final_message=True, add_generation_prompt=True) == "continue_final_message"


def test_variables_and_documents_reach_the_template():
    options = body_of(chat_template_kwargs={"a": 1, "b": None}, documents=[{"text": "x"}]).render_options
    assert options.template_kwargs == {"a": 1}
    assert options.documents == [{"text": "x"}]


@pytest.mark.parametrize(
    "value",
    [
        [],
        "x",
        5,
        True,
        {str(index): 1 for index in range(MAX_TEMPLATE_KWARGS + 1)},
        {"a": "x" * MAX_TEMPLATE_KWARGS_SIZE},
        {"a": [1] * MAX_TEMPLATE_KWARGS_SIZE},
        {"a" * MAX_TEMPLATE_KWARGS_SIZE: 1},
        deep(MAX_TEMPLATE_KWARGS_DEPTH + 1),
    ],
    ids=["list", "text", "number", "boolean", "many", "long", "wide", "long name", "deep"],
)
def test_variables_have_limits(value: Any):
    assert refused(chat_template_kwargs=value) == "chat_template_kwargs"


def test_variables_at_their_limits_are_taken():
    assert body_of(chat_template_kwargs=deep(MAX_TEMPLATE_KWARGS_DEPTH)).chat_template_kwargs
    assert body_of(chat_template_kwargs={str(index): 1 for index in range(MAX_TEMPLATE_KWARGS)}).chat_template_kwargs


@pytest.mark.parametrize("value", [{}, "x", [1], [{"a": 1}, "x"], [{}] * (MAX_DOCUMENTS + 1)])
def test_documents_are_a_list_of_objects(value: Any):
    assert refused(documents=value) == "documents"


@pytest.mark.parametrize("name", ["add_generation_prompt", "continue_final_message"])
@pytest.mark.parametrize("value", [1, "true", [], {}])
def test_switches_are_booleans(name: str, value: Any):
    assert refused(**{name: value}) == name


@pytest.mark.parametrize("body", [ChatCompletionRequest, TokenizeRequest])
def test_a_template_in_a_request_is_refused(body: type[ChatCompletionRequest] | type[TokenizeRequest]):
    with pytest.raises(UnsupportedParameterError) as caught:
        check_supported({"chat_template": "{{ messages }}"}, set(body.model_fields))
    assert caught.value.param == "chat_template"


@pytest.mark.parametrize(
    "fields",
    [{"tools": []}, {"documents": []}, {"continue_final_message": False}, {"chat_template_kwargs": {}}],
)
def test_options_of_a_conversation_are_refused_with_a_prompt(fields: dict[str, Any]):
    with pytest.raises(InvalidRequestError) as caught:
        validate_body(TokenizeRequest, {"prompt": "x", **fields})
    assert caught.value.param == next(iter(fields))
