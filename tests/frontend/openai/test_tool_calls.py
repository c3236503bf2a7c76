"""`tools` and `tool_choice` over HTTP: what is taken, what is refused, what the engine and the template are given."""

import asyncio
from typing import Any

import pytest
from tokenizers import Tokenizer

from frontend.chat_template import ChatTemplate
from frontend.input_processor import chat_text
from frontend.openai.grammars import INVALID_GRAMMAR, named_grammar_error
from frontend.openai.protocol import ChatCompletionRequest
from frontend.openai.tool_calls import (
    answer_parser,
    call_grammar,
    shown_tools,
    shows_special_tokens,
    starts_in_reasoning,
)
from frontend.request_body import check_fields, validate_body
from frontend.state import ServedModel
from frontend.tokenizer import FrontendTokenizer
from ipc.errors import InvalidRequestError, UnsupportedParameterError
from ipc.structured_output import GrammarKind
from tests.frontend.answer_parser.folding import parse

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "now", "parameters": PARAMETERS}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
NAMED = {"type": "function", "function": {"name": "clock"}}
CALL = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'


def body_of(**fields: Any) -> ChatCompletionRequest:
    values = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [WEATHER, CLOCK], **fields}
    return validate_body(ChatCompletionRequest, values)


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **fields}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "retrieval"}]}, "tools.0.type"),
        ({"tools": [function(name="a b")]}, "tools.0.function.name"),
        ({"tools": [function(name="")]}, "tools.0.function.name"),
        ({"tools": [function(name="x" * 65)]}, "tools.0.function.name"),
        ({"tools": [CLOCK, CLOCK]}, "tools"),
        ({"tools": [function(name=f"f{number}") for number in range(129)]}, "tools"),
        ({"tools": [function(parameters=[])]}, "tools.0.function.parameters"),
        ({"tools": [function(strict=1)]}, "tools.0.function.strict"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
         "tool_choice.allowed_tools.tools"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ],
)  # fmt: skip
def test_wrong_tools_are_refused_by_name(fields: dict[str, Any], param: str):
    with pytest.raises(InvalidRequestError) as raised:
        body_of(**fields)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "array"},
        {"type": ["object", "null"]},
        {"properties": {"a": {}} | {str(n): {} for n in range(1001)}},
        {"properties": []},
        {"properties": 5},
        {"required": 5},
        {"required": [["a"]]},
    ],
)
def test_schemas_that_are_no_parameters_are_refused(model: ServedModel, parameters: dict[str, Any]):
    with pytest.raises(InvalidRequestError) as raised:
        call_grammar(model, body_of(tools=[CLOCK, function(parameters=parameters)]), [1])
    assert raised.value.param == "tools.1.function.parameters"
    assert raised.value.code == "invalid_schema"


@pytest.mark.parametrize("choice", [None, "auto", "required", NAMED])
def test_the_engine_gets_a_grammar(model: ServedModel, choice: Any):
    assert call_grammar(model, body_of(tool_choice=choice), [1]).kind is GrammarKind.LARK


def test_a_named_function_is_the_only_one_that_can_be_called(model: ServedModel):
    spec = call_grammar(model, body_of(tool_choice=NAMED), [1]).spec
    assert "clock" in spec
    assert "get_weather" not in spec


def test_allowed_tools_are_the_only_ones_that_can_be_called(model: ServedModel):
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}
    spec = call_grammar(model, body_of(tool_choice=choice), [1]).spec
    assert "clock" in spec
    assert "get_weather" not in spec


def test_with_none_there_are_no_tools(model: ServedModel):
    body = body_of(tool_choice="none")
    assert shown_tools(body) == []
    assert answer_parser(model, body, [1]) is None


def test_the_template_gets_the_tools_as_they_came():
    assert shown_tools(body_of()) == [WEATHER, CLOCK]


def test_without_tools_an_answer_is_text(model: ServedModel):
    assert answer_parser(model, body_of(tools=[]), [1]) is None


def test_an_answer_with_tools_is_parsed(model: ServedModel):
    parser = answer_parser(model, body_of(), [1])
    assert parser is not None
    assert parse(parser, f"Now. {CALL}") == ("", "Now.", [("clock", "{}")])


async def prompt_of(model: ServedModel, **fields: Any) -> str:
    return await chat_text(model, body_of(**fields))


def test_a_template_without_tools_gets_them_as_a_system_message(model: ServedModel):
    assert not model.tokenizer.chat_template.knows_tools
    assert "get_weather" in asyncio.run(prompt_of(model))
    assert "get_weather" not in asyncio.run(prompt_of(model, tool_choice="none"))


@pytest.mark.parametrize(
    ("field", "value"), [("functions", [{"name": "f"}]), ("function_call", {"name": "f"}), ("function_call", "f")]
)
def test_the_older_names_are_refused(field: str, value: Any):
    with pytest.raises(UnsupportedParameterError) as raised:
        check_fields(ChatCompletionRequest, {field: value})
    assert raised.value.param == field


def test_the_older_names_may_say_what_changes_nothing():
    check_fields(ChatCompletionRequest, {"functions": [], "function_call": "auto"})


def test_a_refusal_of_the_core_names_the_tool():
    message = "at 4(14): failed to compile JSON schema: no\n   3 | arguments_0: %json {}\n   4 | arguments_1: %json {}"
    named = named_grammar_error(InvalidRequestError(message, code=INVALID_GRAMMAR), body_of())
    assert (named.param, named.code) == ("tools.1.function.parameters", "invalid_schema")
    assert named.message == "tools.1.function.parameters: failed to compile JSON schema: no"


def test_a_refusal_without_a_place_names_the_tools():
    named = named_grammar_error(InvalidRequestError("it takes too long", code=INVALID_GRAMMAR), body_of())
    assert (named.param, named.code) == ("tools", "invalid_schema")


# --- models that think ------------------------------------------------------------------------------------------


def thinking_model(model: ServedModel, *special_tokens: str) -> ServedModel:
    backend = Tokenizer.from_str(model.tokenizer.backend.to_str())
    backend.add_special_tokens(list(special_tokens))
    template = "{{ messages[0].content }}{% if add_generation_prompt %}<think>\n{% endif %}"
    return ServedModel(model.welcome, FrontendTokenizer(backend, ChatTemplate(template, {})), ("tiny",))


@pytest.mark.parametrize("tags", [(), ("<think>", "</think>")])
def test_the_prompt_tells_whether_it_has_begun_the_reasoning(model: ServedModel, tags: tuple[str, ...]):
    thinking = thinking_model(model, *tags)
    begun, not_begun = (thinking.tokenizer.backend.encode(text).ids for text in ("hello<think>\n", "hello"))
    assert starts_in_reasoning(thinking, begun) is True
    assert starts_in_reasoning(thinking, not_begun) is False
    assert starts_in_reasoning(model, begun) is None
    for prompt, text in ((begun, "a</think>b"), (not_begun, "<think>a</think>b")):
        parser = answer_parser(thinking, body_of(tools=[]), prompt)
        assert parser is not None
        assert parse(parser, text) == ("a", "b", [])


def test_tags_that_are_special_tokens_are_shown_to_the_parser(model: ServedModel):
    body = body_of(tools=[])
    assert shows_special_tokens(thinking_model(model, "<think>", "</think>").tokenizer, body)
    assert not shows_special_tokens(thinking_model(model).tokenizer, body)
    assert not shows_special_tokens(model.tokenizer, body)


def test_reasoning_can_be_left_out_of_the_answer(model: ServedModel):
    parser = answer_parser(thinking_model(model), body_of(tools=[], include_reasoning=False), [1])
    assert parser is not None
    assert parse(parser, "<think>a</think>b") == ("", "b", [])
