"""Grammars of bodies: kinds, limits, and names in errors."""

from typing import Any

import pytest

from frontend.openai.grammars import (
    MAX_SCHEMA_DEPTH,
    MAX_SCHEMA_PROPERTIES,
    grammar_of,
    named_grammar_error,
    schema_text,
)
from frontend.openai.protocol import GenerationBody
from ipc.errors import InvalidRequestError
from ipc.structured_output import MAX_SPEC_BYTES, NO_STRUCTURE, GrammarKind, StructuredOutput


def body(**fields: Any) -> GenerationBody:
    return GenerationBody.model_validate({"model": "m", **fields})


def schema_format(schema: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **fields}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, NO_STRUCTURE),
        ({"response_format": {"type": "text"}}, NO_STRUCTURE),
        ({"response_format": {"type": "json_object"}}, StructuredOutput(GrammarKind.JSON_OBJECT)),
        (
            {"response_format": schema_format({"b": 1, "a": None})},
            StructuredOutput(GrammarKind.LENIENT_JSON_SCHEMA, '{"b":1,"a":null}'),
        ),
        ({"response_format": schema_format({}, strict=True)}, StructuredOutput(GrammarKind.JSON_SCHEMA, "{}")),
        ({"structured_outputs": {"json": "{ }"}}, StructuredOutput(GrammarKind.JSON_SCHEMA, "{ }")),
        ({"structured_outputs": {"json": {}}}, StructuredOutput(GrammarKind.JSON_SCHEMA, "{}")),
        ({"structured_outputs": {"json_object": True}}, StructuredOutput(GrammarKind.JSON_OBJECT)),
        ({"structured_outputs": {"regex": "a"}}, StructuredOutput(GrammarKind.REGEX, "a")),
        ({"structured_outputs": {"choice": ["é"]}}, StructuredOutput(GrammarKind.CHOICE, '["é"]')),
        ({"structured_outputs": {"grammar": "g"}}, StructuredOutput(GrammarKind.LARK, "g")),
    ],
)
def test_the_kinds(fields: dict[str, Any], expected: StructuredOutput):
    grammar = grammar_of(body(**fields))
    grammar.validate()
    assert grammar == expected


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth - 1):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "is_taken"),
    [
        (nested(MAX_SCHEMA_DEPTH), True),
        (nested(MAX_SCHEMA_DEPTH + 1), False),
        (nested(900), False),
        ({"properties": {str(index): {} for index in range(MAX_SCHEMA_PROPERTIES)}}, True),
        ({"properties": {str(index): {} for index in range(MAX_SCHEMA_PROPERTIES + 1)}}, False),
        ({"a": "b" * (MAX_SPEC_BYTES - 8)}, True),
        ({"a": "b" * (MAX_SPEC_BYTES - 7)}, False),
    ],
)
def test_the_limits_of_a_schema(schema: dict[str, Any], is_taken: bool):
    if is_taken:
        assert schema_text(schema, "response_format")
        return
    with pytest.raises(InvalidRequestError) as caught:
        schema_text(schema, "response_format")
    assert caught.value.param == "response_format"


@pytest.mark.parametrize("text", ["[" * 2_000, '{"a":' * 2_000, "nothing", "5", ""])
def test_a_schema_as_text_must_be_an_object(text: str):
    with pytest.raises(InvalidRequestError) as caught:
        schema_text(text, "structured_outputs")
    assert (caught.value.param, caught.value.code) == ("structured_outputs", "invalid_schema")


@pytest.mark.parametrize("name", ["regex", "grammar"])
def test_a_long_grammar_is_refused(name: str):
    with pytest.raises(InvalidRequestError) as caught:
        grammar_of(body(structured_outputs={name: "a" * (MAX_SPEC_BYTES + 1)}))
    assert caught.value.param == "structured_outputs"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"response_format": schema_format({})}, "response_format", "invalid_schema"),
        ({"structured_outputs": {"json": {}}}, "structured_outputs", "invalid_schema"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs", "invalid_grammar"),
    ],
)
def test_the_cores_refusal_gets_the_name_of_the_field(fields: dict[str, Any], param: str, code: str):
    refusal = InvalidRequestError("no", param="structured_outputs", code="invalid_grammar")
    named = named_grammar_error(refusal, body(**fields))
    assert (named.message, named.param, named.code) == ("no", param, code)
