"""What each kind of grammar allows, and what is refused before it costs anything."""

import json

import pytest

from engine_core.structured_output.grammar import GrammarError
from engine_core.structured_output.grammar_source import MAX_SCHEMA_DEPTH, MAX_SCHEMA_PROPERTIES
from ipc.structured_output import GrammarKind

AWKWARD_CHOICES = ['say "hi"', "back\\slash", "two\nlines", "é 漢 🎉", "a", "ab", ".*", "[x]|(y)", "-", "/", "$^", " "]


def nested_arrays(depth):
    """A schema document of this depth: `{"items": {"items": …}}`."""
    return '{"items":' * (depth - 1) + "{}" + "}" * (depth - 1)


def with_properties(count):
    return json.dumps({"properties": {f"p{number}": {} for number in range(count)}})


@pytest.mark.parametrize("choice", AWKWARD_CHOICES)
def test_a_choice_is_said_literally(compiled, matches, choice):
    assert matches(compiled(GrammarKind.CHOICE, json.dumps(AWKWARD_CHOICES)), choice)


@pytest.mark.parametrize("text", ['"a"', "abc", "x", "", "aab", "say hi", "two\\nlines", "a "])
def test_nothing_but_a_choice_is_said(compiled, matches, text):
    assert not matches(compiled(GrammarKind.CHOICE, json.dumps(AWKWARD_CHOICES)), text)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("[]", "at least one"),
        ('{"a": 1}', "array"),
        ('"a"', "array"),
        ('["a", 1]', "string"),
        ('["a", ""]', "not empty"),
        ('["\\ud800"]', "Unicode"),
        ("[", "not JSON"),
        ("[" * 60_000, "nested"),
    ],
)
def test_choices_that_are_no_list_of_texts_are_refused(compiled, spec, message):
    with pytest.raises(GrammarError, match=message):
        compiled(GrammarKind.CHOICE, spec)


def test_a_regex_matches_the_whole_answer(compiled, matches):
    grammar = compiled(GrammarKind.REGEX, "a+|[0-9]{2}")
    texts = ["a", "aaa", "42", "4", "a4", "421", "ba", ""]
    assert [text for text in texts if matches(grammar, text)] == ["a", "aaa", "42"]


@pytest.mark.parametrize("spec", ["(", "(?=a)a", "(" * 300 + "a" + ")" * 300, r"[^\s\S]"])
def test_a_regex_that_is_none_or_needs_too_much_or_matches_nothing_is_refused(compiled, spec):
    with pytest.raises(GrammarError):
        compiled(GrammarKind.REGEX, spec)


def test_a_json_object_may_hold_anything_but_is_an_object(compiled, matches):
    grammar = compiled(GrammarKind.JSON_OBJECT)
    texts = ["{}", '{"a": [1, {"b": null}]}', '{\n  "é": "\\n"\n}', "[]", "1", "", ' {"a":1}', "{} ", "{'a': 1}"]
    assert [text for text in texts if matches(grammar, text)] == texts[:3]


def test_white_space_between_json_tokens_comes_to_an_end(compiled, matches):
    grammar = compiled(GrammarKind.JSON_OBJECT)
    texts = ['{"a": 1}', '{"a":1}', '{\n    "a": 1\n}', "{" + " " * 17 + "}", "{\n\n}", '{"a":\t1}']
    assert [text for text in texts if matches(grammar, text)] == texts[:3]


def test_a_schema_may_choose_its_white_space(compiled, matches):
    spec = '{"type": "object", "x-guidance": {"whitespace_flexible": false}}'
    assert not matches(compiled(GrammarKind.JSON_SCHEMA, spec), '{"a": 1}')


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ('{"uniqueItems": true, "type": "array"}', "uniqueItems"),
        ('{"not": {"type": "string"}, "x-guidance": {"lenient": true}}', "not"),
        ('{"type": "string", "format": "haiku"}', "haiku"),
        ('{"$ref": "https://example.com/schema"}', "example.com"),
        ('{"type": "text"}', "text"),
        ('{"minimum": NaN}', "NaN"),
        ('{"type": "object"', "not JSON"),
        ("[1]", "must be an object"),
        ("true", "must be an object"),
        ('{"enum": []}', "nsatisfiable"),
    ],
)
def test_a_schema_that_is_none_or_cannot_be_enforced_is_refused_by_name(compiled, spec, message):
    with pytest.raises(GrammarError, match=message):
        compiled(GrammarKind.JSON_SCHEMA, spec)


@pytest.mark.parametrize(
    "extra",
    ['"not": {"required": ["b"]}', '"unevaluatedProperties": false', '"x-guidance": {"lenient": false}, "if": {}'],
)
def test_leniently_the_rest_of_a_schema_is_enforced(compiled, matches, extra):
    spec = '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], ' + extra + "}"
    grammar = compiled(GrammarKind.LENIENT_JSON_SCHEMA, spec)
    assert [text for text in ('{"a": 1}', '{"a": ""}', "{}") if matches(grammar, text)] == ['{"a": 1}']


@pytest.mark.parametrize("spec", ['{"type": "text"}', "[1]", '{"minimum": NaN}', '{"enum": []}'])
def test_leniently_a_schema_must_still_be_one(compiled, spec):
    with pytest.raises(GrammarError):
        compiled(GrammarKind.LENIENT_JSON_SCHEMA, spec)


def test_the_depth_of_a_schema_is_limited(compiled):
    compiled(GrammarKind.JSON_SCHEMA, nested_arrays(MAX_SCHEMA_DEPTH))
    for depth in (MAX_SCHEMA_DEPTH + 1, 7000):
        with pytest.raises(GrammarError, match="nested deeper than 64"):
            compiled(GrammarKind.JSON_SCHEMA, nested_arrays(depth))


def test_the_number_of_properties_is_limited(compiled):
    compiled(GrammarKind.JSON_SCHEMA, with_properties(MAX_SCHEMA_PROPERTIES))
    with pytest.raises(GrammarError, match="1001 properties"):
        compiled(GrammarKind.JSON_SCHEMA, with_properties(MAX_SCHEMA_PROPERTIES + 1))


def test_a_lark_grammar_is_enforced(compiled, matches):
    grammar = compiled(GrammarKind.LARK, 'start: NUMBER ("+" NUMBER)*\nNUMBER: /[0-9]+/')
    assert [text for text in ("1", "1+22+3", "1+", "+1", "1 + 2") if matches(grammar, text)] == ["1", "1+22+3"]


def test_a_lark_grammar_is_lark_even_where_it_looks_like_something_else(compiled):
    with pytest.raises(GrammarError):
        compiled(GrammarKind.LARK, '{"grammars": [{"lark_grammar": "start: \\"a\\""}]}')


def test_an_unknown_rule_is_named(compiled):
    with pytest.raises(GrammarError, match="nowhere"):
        compiled(GrammarKind.LARK, "start: nowhere")
