"""`tools` and `tool_choice` over HTTP: what is taken, what is refused, what the engine and the template are given."""

import asyncio
from typing import Any

import pytest

from frontend.input_processor import chat_text
from frontend.openai.protocol import ChatCompletionRequest
from frontend.openai.tool_calls import answer_parser, call_grammar, shown_tools
from frontend.request_body import validate_body
from frontend.state import ServedModel
from ipc.errors import InvalidRequestError
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
    "parameters", [{"type": "array"}, {"properties": {"a": {}} | {str(n): {} for n in range(1001)}}]
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
