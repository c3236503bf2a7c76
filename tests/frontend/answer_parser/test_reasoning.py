import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.answer_parser.formats import ToolFormat, call_parser
from frontend.answer_parser.reasoning import ReasoningCounter, ReasoningParser
from tests.frontend.answer_parser.folding import cut, parse


def make_parser(*, starts_inside=False, has_tools=False, is_shown=True):
    inner = call_parser(ToolFormat.HERMES, {"f"}) if has_tools else None
    return ReasoningParser(inner, starts_inside=starts_inside, is_shown=is_shown)


@pytest.mark.parametrize(
    ("text", "starts_inside", "reasoning", "content"),
    [
        ("<think>\nI think.\n</think>\n\nYes.", False, "I think.", "Yes."),
        ("I think.</think>Yes. ", True, "I think.", "Yes. "),
        (" Yes.", False, "", " Yes."),
        ("<think>never ends", False, "never ends", ""),
        ("<thin", False, "", "<thin"),
        ("a </think> b", False, "", "a </think> b"),
        ("<think></think>\n", False, "", ""),
        ("<think>a</think>b<think>c</think>", False, "a", "b<think>c</think>"),
    ],
)
def test_the_first_block_is_reasoning(text, starts_inside, reasoning, content):
    for pieces in ([text], list(text)):
        assert parse(make_parser(starts_inside=starts_inside), *pieces) == (reasoning, content, [])


def test_calls_may_follow():
    text = '<think>a</think>\n<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    assert parse(make_parser(has_tools=True), *text) == ("a", "", [("f", "{}")])


def test_reasoning_can_be_left_out():
    assert parse(make_parser(is_shown=False), "<think>a</think>b") == ("", "b", [])


@given(
    text=st.lists(st.sampled_from(["<think>", "</think>", "<", "think", " ", "\n", "a", "<tool_call>"])).map("".join),
    positions=st.lists(st.integers(0, 200), max_size=8),
    starts_inside=st.booleans(),
    has_tools=st.booleans(),
)
def test_how_the_text_is_cut_does_not_matter(text, positions, starts_inside, has_tools):
    whole = parse(make_parser(starts_inside=starts_inside, has_tools=has_tools), text)
    assert parse(make_parser(starts_inside=starts_inside, has_tools=has_tools), *cut(text, positions)) == whole


@pytest.mark.parametrize(
    ("texts", "starts_inside", "num_tokens"),
    [
        (["<think>", "a", "</think>", "b"], False, 3),
        (["<th", "ink>", "a", "</thi", "nk>", "b"], False, 5),
        (["a", "</think>", "b"], True, 2),
        (["a", "b"], True, 2),
        (["a", "<think>", "b"], False, 0),
    ],
)
def test_tokens_of_reasoning_are_counted(texts, starts_inside, num_tokens):
    counter = ReasoningCounter(starts_inside=starts_inside)
    for number, text in enumerate(texts, start=1):
        counter.push(text, number)
    assert counter.num_tokens == num_tokens
