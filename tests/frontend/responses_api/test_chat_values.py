"""Bodies of /v1/responses as bodies of chat completions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.openai.protocol import ChatMessage
from frontend.request_body import validate_body
from frontend.responses_api.chat_values import chat_values, param_name
from frontend.responses_api.protocol import ResponsesRequest
from ipc.errors import InvalidRequestError, UnsupportedParameterError

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "name": "f", "description": "d", "parameters": SCHEMA, "strict": True}
CHAT_TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
CHAT_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def translated(**fields):
    return chat_values(validate_body(ResponsesRequest, {"model": "fake", "input": "hi", **fields}))


def messages_of(*items):
    return translated(input=list(items))["messages"]


def test_a_string_is_a_message_of_the_user():
    assert translated() == {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}


def test_instructions_come_first():
    assert translated(instructions="Be kind.")["messages"][0] == {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize("role", ["user", "system", "developer", "assistant"])
def test_a_message_without_a_type_is_one(role):
    assert messages_of({"role": role, "content": "a"}) == [{"role": role, "content": "a"}]


def test_parts_are_texts():
    item = {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages_of(item) == [{"role": "user", "content": parts}]


def test_an_answer_of_this_api_can_be_sent_back():
    answer = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": []}],
    }
    refusal = {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}
    assert [message["content"] for message in messages_of(answer, refusal)] == ["a", "no"]


def test_calls_join_the_message_before_them():
    output = {"type": "function_call_output", "call_id": "c1", "output": "4"}
    assert messages_of({"role": "assistant", "content": "I call."}, CALL, CALL, output) == [
        {"role": "assistant", "content": "I call.", "tool_calls": [CHAT_CALL, CHAT_CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
    ]


def test_calls_after_others_are_a_message():
    assert messages_of({"role": "user", "content": "a"}, CALL)[1] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [CHAT_CALL],
    }


def test_reasoning_joins_what_follows():
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "r"}]}
    answer = {"role": "assistant", "content": "a"}
    assert messages_of(reasoning, answer) == [{"role": "assistant", "content": "a", "reasoning_content": "r"}]
    assert messages_of(reasoning, CALL)[0]["tool_calls"] == [CHAT_CALL]
    assert messages_of(reasoning, {"role": "user", "content": "b"}) == [{"role": "user", "content": "b"}]


def test_reasoning_without_text_is_dropped():
    reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": "x"}
    assert messages_of(reasoning, {"role": "user", "content": "a"}) == [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("items", "param"),
    [
        ([{"role": "user"}], "input.0.content"),
        ([{"content": "a"}], "input.0.role"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input.0.content.0.text"),
        ([{**CALL, "name": None}], "input.0.name"),
        ([{**CALL, "arguments": None}], "input.0.arguments"),
        ([{**CALL, "call_id": None}], "input.0.call_id"),
        ([{"type": "function_call_output", "output": "a"}], "input.0.call_id"),
        ([{"type": "function_call_output", "call_id": "a"}], "input.0.output"),
    ],
)
def test_what_an_item_needs_is_named(items, param):
    with pytest.raises(InvalidRequestError) as caught:
        messages_of(*items)
    assert (caught.value.param, caught.value.code) == (param, "missing_required_parameter")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ({"input": [{"type": "computer_call"}]}, "input.0.type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0.type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input.0.content.0.type"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools.0.defer_loading"),
        ({"tools": [{**TOOL, "async": True}]}, "tools.0.async"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"truncation": "auto"}, "truncation"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"reasoning": {"context": "all_turns"}}, "reasoning.context"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    ],
)
def test_what_cannot_be_honoured_is_refused(fields, param):
    with pytest.raises(UnsupportedParameterError) as caught:
        translated(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "fields",
    [
        {"truncation": "disabled"},
        {"text": {"format": {"type": "text"}, "verbosity": "medium"}},
        {"reasoning": {"summary": "auto", "mode": "standard", "context": "auto"}},
        {"stream_options": {"include_obfuscation": False}},
        {"tool_choice": "auto", "tools": [], "include": [], "max_tool_calls": 3, "metadata": {"a": "b"}},
    ],
)
def test_what_asks_for_nothing_changes_nothing(fields):
    assert translated(**fields) == translated()


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        ({"max_output_tokens": 5}, {"max_completion_tokens": 5}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0, "top_p": 0.5}),
        ({"user": "u", "service_tier": "flex"}, {"user": "u", "service_tier": "flex"}),
        ({"top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": True, "top_logprobs": 0}),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"seed": 1, "stop": ["x"], "top_k": 2}, {"seed": 1, "stop": ["x"], "top_k": 2}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
                }
            },
        ),
    ],
)
def test_options_have_counterparts(fields, values):
    translation = translated(**fields)
    assert {name: translation[name] for name in values} == values


def test_tools_are_functions():
    values = translated(tools=[TOOL], parallel_tool_calls=False)
    assert values["tools"] == [CHAT_TOOL]
    assert (values["tool_choice"], values["parallel_tool_calls"]) == ("auto", False)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_choices_of_tools(choice, expected):
    assert translated(tools=[TOOL], tool_choice=choice)["tool_choice"] == expected


def test_allowed_tools_are_the_only_ones():
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    values = translated(tools=[TOOL, {"type": "function", "name": "g"}], tool_choice=choice)
    assert values["tools"] == [{"type": "function", "function": {"name": "g"}}]
    assert values["tool_choice"] == "required"


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ({"type": "function", "name": "h"}, "tool_choice.name"),
        ({"type": "function"}, "tool_choice.name"),
        ({"type": "allowed_tools", "mode": "auto", "tools": []}, "tool_choice.tools"),
        ({"type": "allowed_tools", "tools": [{"type": "function", "name": "f"}]}, "tool_choice.mode"),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp"}]}, "tool_choice.tools.0.type"),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "h"}]},
            "tool_choice.tools.0.name",
        ),
    ],
)
def test_a_choice_must_be_one_of_the_tools(choice, param):
    with pytest.raises(InvalidRequestError) as caught:
        translated(tools=[TOOL], tool_choice=choice)
    assert caught.value.param == param


def test_there_must_be_tools_to_require_one():
    with pytest.raises(InvalidRequestError) as caught:
        translated(tool_choice="required")
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize(
    ("chat_param", "param"),
    [
        ("messages.3.content", "input"),
        ("max_completion_tokens", "max_output_tokens"),
        ("response_format", "text.format"),
        ("response_format.json_schema.schema", "text.format"),
        ("tools.0.function.parameters", "tools.0.parameters"),
        ("top_p", "top_p"),
        ("stop", "stop"),
    ],
)
def test_fields_of_chat_completions_have_names_here(chat_param, param):
    assert param_name(chat_param) == param


parts = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "output_text", "refusal", "input_image"])},
    optional={"text": st.text(max_size=3), "refusal": st.text(max_size=3)},
)
contents = st.none() | st.text(max_size=3) | st.lists(parts, max_size=2)
items = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning", "item_reference"]),
        "role": st.sampled_from(["user", "assistant", "system", "developer"]),
        "content": contents,
        "call_id": st.text(max_size=3),
        "name": st.text(max_size=3),
        "arguments": st.text(max_size=3),
        "output": contents,
    },
)


@given(st.lists(items, min_size=1, max_size=5))
def test_any_items_are_messages_or_refused_by_name(given_items):
    outcome = messages_or_error(given_items)
    if isinstance(outcome, InvalidRequestError):
        assert outcome.param.startswith("input")
    else:
        assert all(validate_body(ChatMessage, message) for message in outcome)
        assert all(message["role"] == "assistant" or message["content"] is not None for message in outcome)


def messages_or_error(given_items):
    try:
        return messages_of(*given_items)
    except InvalidRequestError as error:
        return error
