"""Messages as templates read them: nothing is lost, what cannot be read is refused by its path."""

from typing import Any

import pytest

from frontend.openai.protocol import ChatCompletionRequest
from frontend.request_body import validate_body
from frontend.template_messages import template_messages
from ipc.errors import InvalidRequestError


def body_of(*messages: dict[str, Any], **fields: Any) -> ChatCompletionRequest:
    return validate_body(ChatCompletionRequest, {"model": "m", "messages": list(messages), **fields})


def values_of(*messages: dict[str, Any], has_parts: bool = False) -> list[dict[str, Any]]:
    return template_messages(body_of(*messages).messages, knows_developer=True, has_parts=has_parts)


def call_of(**function: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", **function}}]}


def arguments_of(arguments: Any) -> Any:
    return values_of(call_of(arguments=arguments))[0]["tool_calls"][0]["function"]["arguments"]


def refused(*messages: dict[str, Any]) -> tuple[str, str | None]:
    with pytest.raises(InvalidRequestError) as caught:
        values_of(*messages)
    return caught.value.code, caught.value.param


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_every_role_keeps_its_content_and_name(role: str):
    assert values_of({"role": role, "content": "x", "name": "n"}) == [{"role": role, "content": "x", "name": "n"}]


def test_a_tool_result_keeps_the_id_of_its_call():
    message = {"role": "tool", "content": "42", "tool_call_id": "call_1", "name": "f"}
    assert values_of(message) == [message]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "function", "content": "x", "name": "f"}, "messages.0.role"),
        ({"role": "assistant", "function_call": {"name": "f", "arguments": ""}}, "messages.0.function_call"),
        ({"role": "assistant", "audio": {"id": "a"}}, "messages.0.audio"),
        ({"role": "assistant", "tool_calls": [{"type": "custom", "custom": {}}]}, "messages.0.tool_calls.0.type"),
    ],
)
def test_what_cannot_be_read_is_unsupported(message: dict[str, Any], param: str):
    assert refused(message) == ("unsupported_parameter", param)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://x"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "file", "file": {"file_id": "f"}},
        {"type": "video_url", "video_url": {"url": "https://x"}},
        {"type": "nothing"},
    ],
)
def test_a_part_that_is_no_text_is_unsupported(part: dict[str, Any]):
    message = {"role": "user", "content": [{"type": "text", "text": "a"}, part]}
    assert refused({"role": "user", "content": "x"}, message) == ("unsupported_parameter", "messages.1.content.1")


@pytest.mark.parametrize("kind", ["text", "refusal"])
def test_a_part_without_its_text_is_incomplete(kind: str):
    message = {"role": "assistant", "content": [{"type": kind}]}
    assert refused(message) == ("missing_required_parameter", f"messages.0.content.0.{kind}")


def test_refusals_are_what_the_assistant_said():
    assert values_of({"role": "assistant", "content": None, "refusal": "No."})[0]["content"] == "No."
    parts = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
    assert values_of({"role": "assistant", "content": parts})[0]["content"] == "a\nb"


@pytest.mark.parametrize("names", [("reasoning",), ("reasoning_content",), ("reasoning", "reasoning_content")])
def test_reasoning_has_every_name_that_templates_know(names: tuple[str, ...]):
    (value,) = values_of({"role": "assistant", "content": "x", **dict.fromkeys(names, "r")})
    assert value["reasoning_content"] == value["reasoning"] == value["thinking"] == "r"


def test_two_different_reasonings_are_refused():
    message = {"role": "assistant", "content": "x", "reasoning": "a", "reasoning_content": "b"}
    assert refused(message) == ("invalid_value", "messages.0")


@pytest.mark.parametrize("arguments", ['{"a": [1, 2]}', {"a": [1, 2]}])
def test_arguments_are_an_object(arguments: Any):
    assert arguments_of(arguments) == {"a": [1, 2]}


@pytest.mark.parametrize("arguments", ["", None, "{}"])
def test_no_arguments_are_an_empty_object(arguments: Any):
    assert arguments_of(arguments) == {}
    assert str(arguments_of(arguments)) == "{}"


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", '"text"', "not json", '{"a": NaN}'])
def test_arguments_that_are_no_json_object_stay_as_the_model_wrote_them(arguments: str):
    assert arguments_of(arguments) == arguments


@pytest.mark.parametrize(
    ("function", "code", "param"),
    [
        ({"arguments": [1]}, "invalid_type", "messages.0.tool_calls.0.function.arguments"),
        ({"arguments": 5}, "invalid_type", "messages.0.tool_calls.0.function.arguments"),
        ({"name": 5}, "invalid_type", "messages.0.tool_calls.0.function.name"),
        ({"name": None}, "missing_required_parameter", "messages.0.tool_calls.0.function.name"),
    ],
)
def test_a_malformed_call_is_named(function: dict[str, Any], code: str, param: str):
    assert refused(call_of(**function)) == (code, param)


def test_objects_that_are_too_deep_are_the_callers_error():
    deep: dict[str, Any] = {}
    for _ in range(1000):
        deep = {"a": deep}
    assert refused(call_of(arguments=deep)) == ("invalid_value", "messages")


def test_templates_that_read_parts_get_them():
    assert values_of({"role": "user", "content": "x"}, has_parts=True)[0]["content"] == [{"type": "text", "text": "x"}]
    assert values_of({"role": "assistant"}, has_parts=True)[0]["content"] == []
