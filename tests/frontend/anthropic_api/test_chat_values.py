"""Bodies of /v1/messages as bodies of chat completions."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.anthropic_api.chat_values import chat_values, param_name
from frontend.anthropic_api.protocol import MessagesRequest
from frontend.openai.protocol import ChatMessage
from frontend.request_body import validate_body
from ipc.errors import InvalidRequestError, UnsupportedParameterError

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"name": "f", "description": "d", "input_schema": SCHEMA}
CHAT_TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
USE = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "4"}
HI = {"role": "user", "content": "hi"}


def text(content):
    return {"type": "text", "text": content}


def translated(*, can_think=False, **fields):
    body = validate_body(MessagesRequest, {"model": "fake", "max_tokens": 5, "messages": [HI], **fields})
    return chat_values(body, can_think=can_think)


def messages_of(*messages):
    return translated(messages=list(messages))["messages"]


def test_a_message_of_the_user():
    assert translated() == {"model": "fake", "messages": [HI], "max_completion_tokens": 5}


@pytest.mark.parametrize(
    ("system", "content"),
    [("a", "a"), ([text("a")], "a"), ([text("a"), text("b")], [text("a"), text("b")])],
)
def test_the_system_prompt_comes_first(system, content):
    assert translated(system=system)["messages"] == [{"role": "system", "content": content}, HI]


def test_a_system_message_may_come_later():
    assert messages_of(HI, {"role": "system", "content": "Be brief."})[1] == {"role": "system", "content": "Be brief."}


def test_messages_of_one_role_are_one():
    assert messages_of(HI, {"role": "user", "content": [text("a")]}) == [
        {"role": "user", "content": [text("hi"), text("a")]}
    ]


def test_the_use_of_a_tool_and_its_result():
    answer = {"role": "assistant", "content": [text("I look."), USE]}
    assert messages_of(HI, answer, {"role": "user", "content": [RESULT, text("So?")]}) == [
        HI,
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "4"},
        {"role": "user", "content": "So?"},
    ]


@pytest.mark.parametrize(
    ("content", "is_error", "expected"),
    [
        (None, False, ""),
        ([text("a"), text("b")], False, [text("a"), text("b")]),
        ("no file", True, "Error: no file"),
        ([text("a"), text("b")], True, [text("Error: a"), text("b")]),
        (None, True, "Error: "),
    ],
)
def test_results_of_tools(content, is_error, expected):
    result = {"type": "tool_result", "tool_use_id": "t1", "content": content, "is_error": is_error}
    assert messages_of({"role": "user", "content": [result]}) == [
        {"role": "tool", "tool_call_id": "t1", "content": expected}
    ]


def test_thinking_is_reasoning():
    thinking = [{"type": "thinking", "thinking": "Hm.", "signature": "x"}, {"type": "redacted_thinking", "data": "x"}]
    assert messages_of(HI, {"role": "assistant", "content": [*thinking, text("a")]}, HI)[1] == {
        "role": "assistant",
        "content": "a",
        "reasoning_content": "Hm.",
    }


def test_the_last_message_of_the_assistant_is_continued():
    values = translated(messages=[HI, {"role": "assistant", "content": "The"}])
    assert values["messages"][-1] == {"role": "assistant", "content": "The"}
    assert (values["continue_final_message"], values["add_generation_prompt"]) == (True, False)


def test_the_use_of_a_tool_needs_a_result():
    with pytest.raises(InvalidRequestError) as caught:
        messages_of(HI, {"role": "assistant", "content": [USE]})
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "user", "content": [USE]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "assistant", "content": [RESULT]}]}, "messages.0.content.0.type"),
        (
            {"messages": [{"role": "user", "content": [{**RESULT, "content": [{"type": "image"}]}]}]},
            "messages.0.content.0.content.0.type",
        ),
        ({"system": [{"type": "image"}]}, "system.0.type"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools.0.defer_loading"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, "thinking.display"),
    ],
)
def test_what_cannot_be_honoured_is_refused(fields, param):
    with pytest.raises(UnsupportedParameterError) as caught:
        translated(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("role", "block", "param"),
    [
        ("user", {"type": "text"}, "messages.0.content.0.text"),
        ("user", {"type": "tool_result"}, "messages.0.content.0.tool_use_id"),
        ("assistant", {**USE, "id": None}, "messages.0.content.0.id"),
        ("assistant", {**USE, "name": None}, "messages.0.content.0.name"),
        ("assistant", {**USE, "input": None}, "messages.0.content.0.input"),
        ("assistant", {"type": "thinking"}, "messages.0.content.0.thinking"),
    ],
)
def test_what_a_block_needs_is_named(role, block, param):
    with pytest.raises(InvalidRequestError) as caught:
        messages_of({"role": role, "content": [block]})
    assert (caught.value.param, caught.value.code) == (param, "missing_required_parameter")


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        ({"temperature": 0, "top_p": 0.5, "top_k": 3}, {"temperature": 0, "top_p": 0.5, "top_k": 3}),
        ({"stop_sequences": ["x"]}, {"stop": ["x"]}),
        ({"metadata": {"user_id": "u"}}, {"user": "u"}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
        ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "output", "schema": SCHEMA, "strict": True},
                }
            },
        ),
    ],
)
def test_options_have_counterparts(fields, values):
    translation = translated(**fields)
    assert {name: translation[name] for name in values} == values


@pytest.mark.parametrize(
    ("thinking", "should_think"),
    [
        (None, False),
        ({"type": "disabled"}, False),
        ({"type": "adaptive"}, True),
        ({"type": "enabled", "budget_tokens": 2000}, True),
    ],
)
def test_a_template_is_told_whether_to_think(thinking, should_think):
    values = translated(can_think=True, thinking=thinking)
    assert values["chat_template_kwargs"] == {"enable_thinking": should_think}


def test_a_template_that_cannot_be_told_does_not_think():
    assert translated(thinking={"type": "disabled"}) == translated()
    with pytest.raises(UnsupportedParameterError) as caught:
        translated(thinking={"type": "enabled", "budget_tokens": 2000})
    assert caught.value.param == "thinking"


def test_tools_are_functions():
    values = translated(tools=[TOOL])
    assert values["tools"] == [CHAT_TOOL]
    assert "tool_choice" not in values


@pytest.mark.parametrize(
    ("choice", "chat_choice", "is_parallel"),
    [
        ({"type": "auto"}, "auto", True),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}, True),
        ({"type": "none"}, "none", True),
    ],
)
def test_choices_of_tools(choice, chat_choice, is_parallel):
    values = translated(tools=[TOOL], tool_choice=choice)
    assert (values["tool_choice"], values["parallel_tool_calls"]) == (chat_choice, is_parallel)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
    ],
)
def test_wrong_tools_are_named(fields, param):
    with pytest.raises(InvalidRequestError) as caught:
        translated(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("chat_param", "param"),
    [
        ("messages.3.content", "messages"),
        ("max_completion_tokens", "max_tokens"),
        ("stop.0", "stop_sequences"),
        ("response_format.json_schema.schema", "output_config.format"),
        ("tools.0.function.parameters", "tools.0.input_schema"),
        ("top_p", "top_p"),
        ("user", "metadata.user_id"),
    ],
)
def test_fields_of_chat_completions_have_names_here(chat_param, param):
    assert param_name(chat_param) == param


blocks = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "thinking", "redacted_thinking", "tool_use", "tool_result", "image"])},
    optional={
        "text": st.text(max_size=3),
        "thinking": st.text(max_size=3),
        "id": st.text(max_size=3),
        "name": st.text(max_size=3),
        "input": st.dictionaries(st.text(max_size=3), st.integers(-9, 9), max_size=2),
        "tool_use_id": st.text(max_size=3),
        "content": st.text(max_size=3) | st.lists(st.just({"type": "text", "text": "a"}), max_size=2),
        "is_error": st.booleans(),
    },
)
conversations = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system"]),
            "content": st.text(max_size=3) | st.lists(blocks, max_size=3),
        }
    ),
    min_size=1,
    max_size=5,
)


@given(conversations)
def test_any_messages_are_translated_or_refused_by_name(conversation):
    outcome = messages_or_error(conversation)
    if isinstance(outcome, InvalidRequestError):
        assert outcome.param.startswith("messages")
    else:
        assert all(validate_body(ChatMessage, message) for message in outcome)
        assert all(message["content"] is not None or message.get("tool_calls") for message in outcome)
        roles = [message["role"] for message in outcome]
        assert all(pair != ("assistant", "assistant") for pair in pairwise(roles))


def messages_or_error(conversation):
    try:
        return messages_of(*conversation)
    except InvalidRequestError as error:
        return error
