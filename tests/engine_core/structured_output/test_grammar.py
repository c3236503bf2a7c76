"""Matchers: what they allow is what the grammar says, whatever other answers do to the same grammar."""

import json
import re

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLTokenizer

from engine_core.model.fake_runner import IM_END_ID, IM_START_ID, VOCAB_SIZE
from engine_core.structured_output.grammar import CompiledGrammar, GrammarError
from engine_core.structured_output.grammar_source import llguidance_grammar
from ipc.structured_output import GrammarKind, StructuredOutput

SCHEMAS = [
    {"type": "object"},
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name"],
        "additionalProperties": False,
    },
    {"type": "array", "items": {"enum": ["a", 1, None]}, "minItems": 1, "maxItems": 3},
    {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": "^[ab]{2}$"}]},
    {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}}},
    {"type": "number", "minimum": -2, "maximum": 10},
]
REGEXES = ["[0-9]{1,4}", "(yes|no)(, (yes|no)){0,3}", r"[a-z]+@[a-z]+\.(com|org)", "é?(ab)*"]
WEARING_REGEX = "(.{1,300}a?){1,300}"
"""Legal, and at some point too much for llguidance's lexer."""
NUM_WORDS = -(-VOCAB_SIZE // 32)


def walk(grammar, allowed, draw, max_tokens=400):
    """A random answer; None if it did not end by itself. What closes is preferred, so that most do."""
    matcher, answer = grammar.new_matcher(), bytearray()
    for _ in range(max_tokens):
        if matcher.is_complete:
            return bytes(answer)
        candidates = sorted(allowed(matcher))
        closing = [token_id for token_id in candidates if token_id in (IM_END_ID, *b'"]}')]
        token_id = draw(st.sampled_from(closing if closing and draw(st.booleans()) else candidates))
        matcher.accept([token_id])
        if token_id == IM_END_ID:
            return bytes(answer)
        answer.append(token_id)
    return None


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SCHEMAS), st.data())
def test_any_allowed_walk_to_the_end_is_valid_json(byte_tokenizer, allowed, schema, data):
    source = llguidance_grammar(StructuredOutput(GrammarKind.JSON_SCHEMA, json.dumps(schema)))
    answer = walk(CompiledGrammar(byte_tokenizer, source), allowed, data.draw)
    if answer is not None:
        jsonschema.validate(json.loads(answer), schema)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(REGEXES), st.data())
def test_any_allowed_walk_to_the_end_matches_the_regex(byte_tokenizer, allowed, regex, data):
    source = llguidance_grammar(StructuredOutput(GrammarKind.REGEX, regex))
    answer = walk(CompiledGrammar(byte_tokenizer, source), allowed, data.draw)
    if answer is not None:
        assert re.fullmatch(regex, answer.decode())


def test_eos_is_allowed_where_the_answer_may_end_and_nothing_follows_where_it_must(compiled, allowed):
    matcher = compiled(GrammarKind.REGEX, "a{1,2}").new_matcher()
    assert allowed(matcher) == {ord("a")}
    matcher.accept(b"a")
    assert (allowed(matcher), matcher.is_complete) == ({ord("a"), IM_END_ID}, False)
    matcher.accept(b"a")
    assert (allowed(matcher), matcher.is_complete) == ({IM_END_ID}, True)
    matcher.accept([IM_END_ID])
    assert matcher.is_complete


def test_eos_ends_an_answer_that_could_go_on(compiled):
    matcher = compiled(GrammarKind.REGEX, "a+").new_matcher()
    matcher.accept([*b"aa", IM_END_ID])
    assert matcher.is_complete


def test_a_matcher_behind_some_output_is_where_that_output_leads(compiled, allowed):
    grammar = compiled(GrammarKind.REGEX, "(ab|cd)e")
    assert allowed(grammar.new_matcher(b"c")) == {ord("d")}


def test_a_token_that_is_not_allowed_ends_this_matcher_and_no_other(compiled, allowed):
    grammar = compiled(GrammarKind.REGEX, "ab")
    other = grammar.new_matcher(b"a")
    with pytest.raises(GrammarError):
        grammar.new_matcher(b"x")
    assert allowed(other) == {ord("b")}
    assert allowed(grammar.new_matcher()) == {ord("a")}


def wear_out(matcher):
    """Go on until the matcher cannot; returns after how many tokens that was."""
    words = np.zeros(NUM_WORDS, dtype=np.int32)
    for position in range(300):
        try:
            matcher.fill_mask(words)
            matcher.accept([b"aaaa "[position % 5]])
        except GrammarError:
            return position
    raise AssertionError("it never failed")


def test_a_limit_that_one_answer_runs_into_is_not_felt_by_the_others(compiled, allowed):
    """Copies of a prototype share their lexer, its limits and its error."""
    grammar = compiled(GrammarKind.REGEX, WEARING_REGEX)
    other = grammar.new_matcher(b"hello")
    expected = allowed(other)
    num_tokens = wear_out(grammar.new_matcher())
    assert num_tokens > 30
    assert allowed(other) == expected
    other.accept(b" you")
    assert grammar.is_spoiled
    assert allowed(grammar.new_matcher(b"hello")) == expected


def test_an_answer_fails_at_the_same_token_whoever_shares_its_grammar(compiled):
    shared = compiled(GrammarKind.REGEX, WEARING_REGEX)
    alone = wear_out(compiled(GrammarKind.REGEX, WEARING_REGEX).new_matcher())
    assert [wear_out(shared.new_matcher()) for _ in range(2)] == [alone, alone]


def test_every_eos_of_the_model_may_end_an_answer(tokenizer_dir, allowed):
    path = str(tokenizer_dir / "tokenizer.json")
    tokenizer = LLTokenizer(path, n_vocab=VOCAB_SIZE, eos_token=[IM_START_ID, IM_END_ID])
    source = llguidance_grammar(StructuredOutput(GrammarKind.REGEX, "a?"))
    matcher = CompiledGrammar(tokenizer, source).new_matcher()
    assert allowed(matcher) == {ord("a"), IM_START_ID, IM_END_ID}


@pytest.mark.parametrize("vocab_size", [32, 100, 128, VOCAB_SIZE])
def test_a_mask_can_be_shorter_than_the_tokenizer_where_the_model_is(compiled, allowed, vocab_size):
    matcher = compiled(GrammarKind.REGEX, "(?s:.)").new_matcher()
    everything = allowed(matcher)
    assert allowed(matcher, vocab_size) == {token_id for token_id in everything if token_id < vocab_size}


def test_a_message_says_what_is_wrong_however_long_the_grammar_is(compiled):
    with pytest.raises(GrammarError, match="unclosed") as caught:
        compiled(GrammarKind.REGEX, "a" * 5000 + "(")
    assert len(str(caught.value)) < 1100
