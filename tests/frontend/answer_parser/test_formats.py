"""Every form of calls: what is read of it, and that it does not matter how the text is cut."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.answer_parser.formats import ToolFormat, call_parser, ends_in_reasoning, may_think, tool_format
from tests.frontend.answer_parser.folding import cut, parse

NAMES = {"get_weather", "add"}
HERMES_CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "</tool_call>"}}\n</tool_call>'

CASES = [
    (ToolFormat.HERMES, HERMES_CALL, "", [("add", '{"a": 1, "b": "</tool_call>"}')]),
    (
        ToolFormat.HERMES,
        f"Sure. \n{HERMES_CALL}\n{HERMES_CALL}\n",
        "Sure.",
        [("add", '{"a": 1, "b": "</tool_call>"}')] * 2,
    ),
    (
        ToolFormat.HERMES,
        '<tool_call>{"arguments":{"x":[{}]},"name":"f"}</tool_call> done',
        " done",
        [("f", '{"x":[{}]}')],
    ),
    (ToolFormat.HERMES, '<tool_call>{"name":"f","arguments":"{\\"x\\": 1}"}</tool_call>', "", [("f", '{"x": 1}')]),
    (ToolFormat.HERMES, '<tool_call>{"name":"f"}</tool_call>', "", [("f", "{}")]),
    (ToolFormat.HERMES, '<tool_call>{"name":"f","arguments":{"a":1', "", [("f", '{"a":1')]),
    (ToolFormat.HERMES, "a <tool_call>\nno call</tool_call> b", "a <tool_call>\nno call</tool_call> b", []),
    (ToolFormat.HERMES, 'a <tool_call>{"name": 3}', 'a <tool_call>{"name": 3}', []),
    (ToolFormat.HERMES, "2 < 3 <tool_", "2 < 3 <tool_", []),
    (ToolFormat.HERMES, " plain  ", " plain  ", []),
    (
        ToolFormat.MISTRAL,
        '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}, {"name": "f", "arguments": {}}]',
        "",
        [("add", '{"a": 1}'), ("f", "{}")],
    ),
    (ToolFormat.MISTRAL, 'Hm [TOOL_CALLS]{"name":"f","arguments":{}} so', "Hm so", [("f", "{}")]),
    (ToolFormat.MISTRAL, "[TOOL_CALLS] [nothing]", "[TOOL_CALLS] [nothing]", []),
    (ToolFormat.MISTRAL, "[TOOL_CALLS] [", "[TOOL_CALLS] [", []),
    (
        ToolFormat.MISTRAL_NAMED,
        '[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]f{"b": {}}',
        "",
        [("add", '{"a": 1}'), ("f", '{"b": {}}')],
    ),
    (ToolFormat.MISTRAL_NAMED, "[TOOL_CALLS]!! so", "[TOOL_CALLS]!! so", []),
    (ToolFormat.MISTRAL_NAMED, "[TOOL_CALLS]add", "[TOOL_CALLS]add", []),
    (ToolFormat.LLAMA_JSON, ' {"name": "add", "parameters": {"a": 1}}', "", [("add", '{"a": 1}')]),
    (
        ToolFormat.LLAMA_JSON,
        '<|python_tag|>{"name": "add", "parameters": {}}; {"name": "add", "parameters": {"b": 2}}\n',
        "",
        [("add", "{}"), ("add", '{"b": 2}')],
    ),
    (ToolFormat.LLAMA_JSON, '{"name": "Rome", "parameters": {}}', '{"name": "Rome", "parameters": {}}', []),
    (ToolFormat.LLAMA_JSON, '{"city": "Rome"} is it', '{"city": "Rome"} is it', []),
    (ToolFormat.LLAMA_JSON, "<|python_tag|> print(1)", "<|python_tag|> print(1)", []),
    (ToolFormat.LLAMA_JSON, " The answer", " The answer", []),
    (
        ToolFormat.PYTHON,
        '[add(a=1, b="x"), get_weather(city=\'Rome\', days=[1, -2], deep={"k": None, "t": true})]',
        "",
        [
            ("add", '{"a": 1, "b": "x"}'),
            ("get_weather", '{"city": "Rome", "days": [1, -2], "deep": {"k": null, "t": true}}'),
        ],
    ),
    (ToolFormat.PYTHON, "[1, 2]", "[1, 2]", []),
    (ToolFormat.PYTHON, "[add(__import__('os'))]", "[add(__import__('os'))]", []),
    (ToolFormat.PYTHON, "[add(a=open('x'))]", "[add(a=open('x'))]", []),
    (ToolFormat.PYTHON, "[add(a=1", "[add(a=1", []),
    (ToolFormat.PYTHON, "[add(a=1)", "", [("add", '{"a": 1}')]),
    (ToolFormat.PYTHON, "[add(a=1), ", "", [("add", '{"a": 1}')]),
    (ToolFormat.PYTHON, "[add(a=1)] so, [add(a=2)]", " so, [add(a=2)]", [("add", '{"a": 1}')]),
    (ToolFormat.PYTHON, "[sub(a=1)]", "[sub(a=1)]", []),
    (ToolFormat.PYTHON, "[add(a=1, a=2)]", "[add(a=1, a=2)]", []),
    (ToolFormat.PYTHON, "[add(**a)]", "[add(**a)]", []),
    (
        ToolFormat.PYTHON,
        "[add(from=1, class=')', x={'y': (1,)},)]",
        "",
        [("add", '{"from": 1, "class": ")", "x": {"y": [1]}}')],
    ),
    (
        ToolFormat.PYTHON,
        rf'[add(a=1e999, b="\/\ud83d\ude00", c={"9" * 5000})]',
        "",
        [("add", rf'{{"a": 1e999, "b": "\/\ud83d\ude00", "c": {"9" * 5000}}}')],
    ),
    (ToolFormat.PYTHON, "[link](http://x)", "[link](http://x)", []),
    (ToolFormat.LLAMA_JSON, '{"type": "function", "name": "add", "parameters": {}}', "", [("add", "{}")]),
    (ToolFormat.LLAMA_JSON, '{"type": "city", "name": "add"}', '{"type": "city", "name": "add"}', []),
    (ToolFormat.LLAMA_JSON, '{"parameters": {}, "name": "add"}', '{"parameters": {}, "name": "add"}', []),
    (ToolFormat.PYTHON, " [a", " [a", []),
]


@pytest.mark.parametrize(("form", "text", "content", "calls"), CASES)
def test_calls_and_content(form, text, content, calls):
    assert parse(call_parser(form, NAMES), text) == ("", content, calls)


@pytest.mark.parametrize(("form", "text", "content", "calls"), CASES)
def test_one_character_at_a_time(form, text, content, calls):
    assert parse(call_parser(form, NAMES), *text) == ("", content, calls)


PIECES = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>"),
        *(
            '{"name": "add", ',
            '{"name"',
            '"arguments": {"a": ',
            '"parameters": {"a": ',
            "1}}",
            "add",
            "(a=1)",
            "[add(",
            "a=1,",
            ")",
            "'",
        ),
        *("[", "]", "{", "}", '"', "\\", ",", ";", " ", "\n", "<", "é🙂", "x"),
    ]
)


@pytest.mark.parametrize("form", ToolFormat)
@given(text=st.lists(PIECES, max_size=14).map("".join), positions=st.lists(st.integers(0, 400), max_size=12))
def test_how_the_text_is_cut_does_not_matter(form, text, positions):
    whole = parse(call_parser(form, NAMES), text)
    assert parse(call_parser(form, NAMES), *cut(text, positions)) == whole


@pytest.mark.parametrize("form", ToolFormat)
@given(text=st.lists(PIECES, max_size=14).map("".join))
def test_nothing_is_lost_where_there_is_no_call(form, text):
    _, content, calls = parse(call_parser(form, NAMES), text)
    if not calls:
        assert content == text


SOME_JSON = st.recursive(st.text(max_size=20) | st.integers() | st.booleans(), st.lists, max_leaves=5)


@given(st.dictionaries(st.text(max_size=5), SOME_JSON, max_size=4))
def test_arguments_come_as_they_are_written(arguments):
    written = json.dumps(arguments)
    text = f'<tool_call>\n{{"name": "add", "arguments": {written}}}\n</tool_call>'
    assert parse(call_parser(ToolFormat.HERMES, NAMES), *text) == ("", "", [("add", written)])


def test_the_name_comes_before_the_arguments_are_complete():
    parser = call_parser(ToolFormat.HERMES, NAMES)
    first = parser.push('<tool_call>\n{"name": "add",')
    assert [type(part).__name__ for part in first] == ["ToolCallStart"]
    more = parser.push(' "arguments": {"a": [1')
    assert more[0].text == '{"a": [1'


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", ToolFormat.HERMES),
        ("{% if tools %}<tool_call>{% endif %}", ToolFormat.HERMES),
        ("{{ '[TOOL_CALLS] [' }}", ToolFormat.MISTRAL),
        ("[TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}", ToolFormat.MISTRAL_NAMED),
        ('{{ \'{"name": "\' + name + \'", "parameters": \' }}', ToolFormat.LLAMA_JSON),
        ("<|python_tag|>", ToolFormat.LLAMA_JSON),
        ("write [func_name1(params_name1=params_value1)]", ToolFormat.PYTHON),
    ],
)
def test_the_form_is_found_in_the_template(template, form):
    assert tool_format(template) is form


def test_reasoning_is_found_in_the_template_and_the_prompt():
    assert may_think("…<think>…")
    assert not may_think("…")
    assert ends_in_reasoning("<|im_start|>assistant\n<think>\n")
    assert not ends_in_reasoning("<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (ToolFormat.LLAMA_JSON, '{"city": '),
        (ToolFormat.PYTHON, "[1, "),
        (ToolFormat.PYTHON, "[link]("),
        (ToolFormat.HERMES, "<tools>"),
    ],
)
def test_what_can_be_no_call_any_more_is_given_out_at_once(form, text):
    assert "".join(part.text for part in call_parser(form, NAMES).push(text)).strip() == text.strip()


@pytest.mark.parametrize(
    ("form", "text", "pattern"),
    [
        (ToolFormat.HERMES, HERMES_CALL, r"call_[0-9a-f]{24}"),
        (ToolFormat.MISTRAL, '[TOOL_CALLS] [{"name": "add", "arguments": {}}]', r"[0-9a-f]{9}"),
        (ToolFormat.MISTRAL_NAMED, "[TOOL_CALLS]add[ARGS]{}", r"[0-9a-f]{9}"),
    ],
)
def test_ids_are_those_that_the_template_takes_back(form, text, pattern):
    assert re.fullmatch(pattern, call_parser(form, NAMES).push(text)[0].id)
