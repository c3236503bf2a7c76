"""The grammars of calls: what they let a model write, and that the parsers read all of it."""

import json
import random

import jsonschema
import llguidance.numpy
import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer

from engine_core.structured_output.grammar import CompiledGrammar
from frontend.answer_parser.callable_tools import CallableTool, ContentSchema, Thinking, refused_param
from frontend.answer_parser.formats import ToolFormat, call_parser
from frontend.answer_parser.reasoning import ReasoningParser
from frontend.answer_parser.tool_grammar import tool_grammar
from ipc.errors import InvalidRequestError
from ipc.structured_output import MAX_SPEC_BYTES
from tests.frontend.answer_parser.folding import parse

TOKENIZER = LLTokenizer("byte")
ADD = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "kind": {"enum": ["x", "y"]}},
    "required": ["a"],
    "additionalProperties": False,
}
MOVE = {
    "properties": {
        "to": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
        "note": {"maxLength": 3, "type": "string"},
    },
    "additionalProperties": False,
}
SCHEMAS = {"add": ADD, "move-it": MOVE, "stop": None}
TOOLS = [CallableTool(name, schema, index) for index, (name, schema) in enumerate(SCHEMAS.items())]
NO_ARGUMENTS = {"type": "object", "additionalProperties": False}


def matcher_of(form, tools=TOOLS, **options):
    options = {"is_required": True, "is_parallel": True, **options}
    spec = json.dumps({"grammars": [{"lark_grammar": tool_grammar(form, tools, **options)}]})
    matcher = LLMatcher(TOKENIZER, spec)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def accepts(matcher, text):
    """True where the text is a whole answer under the grammar."""
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


def sample(matcher, generator, max_tokens=2000):
    """A random answer; it ends where it may, with some probability."""
    bitmask = llguidance.numpy.allocate_token_bitmask(1, TOKENIZER.vocab_size)
    written = bytearray()
    for _ in range(max_tokens):
        if matcher.is_accepting() and (matcher.is_stopped() or generator.random() < 0.5):
            return bytes(written)
        llguidance.numpy.fill_next_token_bitmask(matcher, bitmask)
        bits = llguidance.numpy.np.unpackbits(bitmask.view("uint8"), bitorder="little")[:256]
        token = generator.choice(bits.nonzero()[0].tolist())
        assert matcher.consume_token(token)
        written.append(token)
    raise AssertionError("the answer does not end")


@pytest.mark.parametrize("is_parallel", [True, False])
@pytest.mark.parametrize("form", ToolFormat)
def test_whatever_a_model_writes_is_read_as_valid_calls(form, is_parallel):
    generator = random.Random(5)
    for _ in range(60):
        text = sample(matcher_of(form, is_parallel=is_parallel), generator)
        reasoning, content, calls = parse(call_parser(form, set(SCHEMAS)), text.decode(errors="replace"))
        assert (reasoning, content) == ("", "")
        assert 1 <= len(calls) <= (16 if is_parallel and form is not ToolFormat.LLAMA_JSON else 1)
        for name, arguments in calls:
            jsonschema.validate(json.loads(arguments), SCHEMAS[name] or NO_ARGUMENTS)


CALLS = {
    ToolFormat.HERMES: '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
    ToolFormat.MISTRAL: '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]',
    ToolFormat.MISTRAL_NAMED: '[TOOL_CALLS]add[ARGS]{"a": 1}',
    ToolFormat.LLAMA_JSON: '{"name": "add", "parameters": {"a": 1}}',
    ToolFormat.PYTHON: "[add(a=1)]",
}


@pytest.mark.parametrize("form", ToolFormat)
def test_required_allows_nothing_but_calls(form):
    assert accepts(matcher_of(form), CALLS[form])
    for text in ("", "Hello", CALLS[form].replace("add", "sub"), CALLS[form].replace("1", '"1"')):
        assert not accepts(matcher_of(form), text)


TAGGED_FORMS = [ToolFormat.HERMES, ToolFormat.MISTRAL, ToolFormat.MISTRAL_NAMED]
BARE_FORMS = [ToolFormat.LLAMA_JSON, ToolFormat.PYTHON]


@pytest.mark.parametrize("form", ToolFormat)
def test_auto_allows_text_and_calls_but_no_wrong_call(form):
    for text in ("", "Hello 🙂\nyou < >", '{"a": [1]}', "[1](http://x)", CALLS[form]):
        assert accepts(matcher_of(form, is_required=False), text), text
    assert not accepts(matcher_of(form, is_required=False), CALLS[form].replace("1", '"1"'))


@pytest.mark.parametrize("form", TAGGED_FORMS)
def test_behind_a_tag_there_are_only_known_functions(form):
    assert not accepts(matcher_of(form, is_required=False), CALLS[form].replace("add", "sub"))


@pytest.mark.parametrize("form", BARE_FORMS)
def test_without_a_tag_other_names_are_content(form):
    text = CALLS[form].replace("add", "sub")
    assert accepts(matcher_of(form, is_required=False), text)
    assert parse(call_parser(form, set(SCHEMAS)), text) == ("", text, [])


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (ToolFormat.LLAMA_JSON, '\n{ "name" : "add", "parameters": {"a": 1}}'),
        (ToolFormat.LLAMA_JSON, '{"type": "function", "name": "add", "parameters": {"a": 1}}'),
        (ToolFormat.LLAMA_JSON, '<|python_tag|>{"name": "add", "parameters": {"a": 1}}'),
        (ToolFormat.PYTHON, " [ add(a=1)]"),
    ],
)
def test_auto_sees_a_call_however_it_is_spaced(form, text):
    assert accepts(matcher_of(form, is_required=False), text)
    assert not accepts(matcher_of(form, is_required=False), text.replace("1", "true"))
    _, content, calls = parse(call_parser(form, set(SCHEMAS)), text)
    assert (content, calls) == ("", [("add", '{"a": 1}')])


@pytest.mark.parametrize("form", TAGGED_FORMS)
def test_auto_allows_text_before_a_call(form):
    assert accepts(matcher_of(form, is_required=False), f"Let me see. {CALLS[form]}")


def test_without_parallel_calls_there_is_one():
    two = f"{CALLS[ToolFormat.HERMES]}\n{CALLS[ToolFormat.HERMES]}"
    for is_required in (True, False):
        assert accepts(matcher_of(ToolFormat.HERMES, is_required=is_required), two)
        assert not accepts(matcher_of(ToolFormat.HERMES, is_required=is_required, is_parallel=False), two)


@pytest.mark.parametrize("is_required", [True, False])
@pytest.mark.parametrize(
    ("thinking", "thought", "is_right"),
    [
        (Thinking.PERHAPS, "<think>\nHm.\n</think>\n\n", True),
        (Thinking.PERHAPS, "", True),
        (Thinking.BEGUN, "goes on</think>", True),
        (Thinking.BEGUN, "\n\n</think>\n\n", True),
        (Thinking.NEVER, "<think>\n\n</think>", False),
    ],
)
def test_a_model_that_thinks_may_do_so_first(is_required, thinking, thought, is_right):
    call = CALLS[ToolFormat.HERMES]
    matcher = matcher_of(ToolFormat.HERMES, is_required=is_required, thinking=thinking)
    assert accepts(matcher, thought + call) is (is_right or not is_required)
    parser = ReasoningParser(call_parser(ToolFormat.HERMES, {"add"}), starts_inside=thinking is Thinking.BEGUN)
    assert parse(parser, thought + call)[2] == [("add", '{"a": 1}')]


def test_reasoning_that_was_begun_comes_to_an_end_before_a_call_that_must_come():
    matcher = matcher_of(ToolFormat.HERMES, thinking=Thinking.BEGUN)
    assert not accepts(matcher, CALLS[ToolFormat.HERMES])


def test_an_answer_without_a_call_may_have_a_schema():
    schema = {"type": "object", "properties": {"b": {"type": "null"}}, "required": ["b"], "additionalProperties": False}
    for text, is_right in (('{"b": null}', True), ("Hello", False), (CALLS[ToolFormat.HERMES], True)):
        matcher = matcher_of(ToolFormat.HERMES, is_required=False, content=ContentSchema(schema))
        assert accepts(matcher, text) is is_right


@pytest.mark.parametrize("is_lenient", [True, False])
def test_a_schema_of_the_content_is_enforced_as_far_as_it_can_be(is_lenient):
    content = ContentSchema({"type": "object", "not": {}}, is_lenient=is_lenient)
    grammar = tool_grammar(ToolFormat.HERMES, TOOLS, is_required=False, is_parallel=True, content=content)
    message = LLMatcher.validate_grammar(json.dumps({"grammars": [{"lark_grammar": grammar}]}), TOKENIZER)
    assert bool(message) is not is_lenient
    assert is_lenient or refused_param(message) == "response_format"


def test_lenient_tools_leave_out_what_cannot_be_enforced():
    schema = {**ADD, "not": {"required": ["b"]}}
    with pytest.raises(AssertionError, match="not"):
        matcher_of(ToolFormat.HERMES, [CallableTool("add", schema, 0)])
    lenient = [CallableTool("add", schema, 0, is_lenient=True)]
    assert accepts(matcher_of(ToolFormat.HERMES, lenient), CALLS[ToolFormat.HERMES])


def test_tags_that_are_tokens_are_named_by_their_ids():
    grammar = tool_grammar(
        ToolFormat.HERMES,
        TOOLS,
        is_required=True,
        is_parallel=False,
        token_id={"<tool_call>": 7, "</tool_call>": 8}.get,
    )
    assert "<[7]>" in grammar
    assert "<[8]>" in grammar
    assert "tool_call>" not in grammar


@pytest.mark.parametrize("schema", [{"properties": {"a b": {}}}, {"properties": {"a": {}}, "minProperties": 1}])
def test_what_python_calls_cannot_enforce_is_refused(schema):
    tool = CallableTool("f", schema, 0)
    with pytest.raises(InvalidRequestError) as raised:
        tool_grammar(ToolFormat.PYTHON, [tool], is_required=True, is_parallel=True)
    assert (raised.value.param, raised.value.code) == ("tools.0.function.parameters", "invalid_schema")


@pytest.mark.parametrize("arguments", ["", "a=1", "b=2", "a=1, b=2"])
def test_python_arguments_may_be_left_out(arguments):
    tools = [CallableTool("f", {"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}, 0)]
    assert accepts(matcher_of(ToolFormat.PYTHON, tools), f"[f({arguments})]")


def test_python_values_keep_the_definitions_that_they_refer_to():
    schema = {"properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}, "required": ["a"]}
    tools = [CallableTool("f", schema, 0)]
    assert accepts(matcher_of(ToolFormat.PYTHON, tools), "[f(a=1)]")
    assert not accepts(matcher_of(ToolFormat.PYTHON, tools), '[f(a="1")]')


@pytest.mark.parametrize("name", ["from", "x-y", "größe", "\U0001d4b3"])
def test_python_arguments_may_have_names_that_python_does_not_know(name):
    tools = [CallableTool("f", {"properties": {name: {"type": "integer"}}, "required": [name]}, 0)]
    assert accepts(matcher_of(ToolFormat.PYTHON, tools), f"[f({name}=1)]")
    _, _, [(_, arguments)] = parse(call_parser(ToolFormat.PYTHON, {"f"}), f"[f({name}=1)]")
    assert json.loads(arguments) == {name: 1}


@pytest.mark.parametrize("is_lenient", [True, False])
def test_python_values_cannot_refer_to_the_whole_schema(is_lenient):
    tool = CallableTool("f", {"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, 0, is_lenient=is_lenient)
    if is_lenient:
        assert accepts(matcher_of(ToolFormat.PYTHON, [tool]), "[f(a=1)]")
        return
    with pytest.raises(InvalidRequestError):
        matcher_of(ToolFormat.PYTHON, [tool])


@pytest.mark.parametrize("is_required", [True, False])
@pytest.mark.parametrize("form", ToolFormat)
def test_a_refusal_names_the_tool(form, is_required):
    tools = [CallableTool("f", ADD, 3), CallableTool("g", {"properties": {"a": {"type": "number?"}}}, 5)]
    grammar = tool_grammar(form, tools, is_required=is_required, is_parallel=True)
    message = LLMatcher.validate_grammar(json.dumps({"grammars": [{"lark_grammar": grammar}]}), TOKENIZER)
    assert refused_param(message) == "tools.5.function.parameters"


@pytest.mark.parametrize("form", BARE_FORMS)
def test_calls_without_a_tag_may_follow_reasoning(form):
    options = {"is_required": False, "thinking": Thinking.PERHAPS}
    thought = "<think>\n[{</think>\n\n"
    for text in ("Hello", CALLS[form], f"{thought}Hello", thought + CALLS[form]):
        assert accepts(matcher_of(form, **options), text), text
    assert not accepts(matcher_of(form, **options), thought + CALLS[form].replace("1", "true"))


@pytest.mark.parametrize("is_required", [True, False])
@pytest.mark.parametrize("form", ToolFormat)
def test_as_many_tools_as_there_may_be(form, is_required):
    tools = [CallableTool(f"function_{number}_{'x' * 40}", ADD, number) for number in range(128)]
    grammar = tool_grammar(form, tools, is_required=is_required, is_parallel=True, thinking=Thinking.PERHAPS)
    assert len(grammar.encode()) <= 2 * MAX_SPEC_BYTES
    assert CompiledGrammar(TOKENIZER, json.dumps({"grammars": [{"lark_grammar": grammar}]})).num_mask_words


# --- tags that are tokens of their own --------------------------------------------------------------------------

TAGS = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<think>", "</think>"]


@pytest.fixture(scope="module", params=[True, False], ids=["special", "added"])
def tagged(request, tokenizer_dir, tmp_path_factory):
    """A tokenizer in which every tag is one token, for the frontend and for llguidance."""
    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(tag, special=request.param, normalized=False) for tag in TAGS])
    file = tmp_path_factory.mktemp("tagged") / "tokenizer.json"
    tokenizer.save(str(file))
    return tokenizer, LLTokenizer(str(file), eos_token=[1])


def takes(tagged, text, **options):
    """True where the text is a whole answer, token by token."""
    tokenizer, for_grammars = tagged
    form = options.pop("form")
    grammar = tool_grammar(form, TOOLS, **{"is_parallel": True, "token_id": tokenizer.token_to_id, **options})
    matcher = LLMatcher(for_grammars, json.dumps({"grammars": [{"lark_grammar": grammar}]}), log_level=0)
    return all(map(matcher.consume_token, tokenizer.encode(text).ids)) and matcher.is_accepting()


@pytest.mark.parametrize("is_required", [True, False])
@pytest.mark.parametrize("form", ToolFormat)
def test_a_call_may_be_written_with_those_tokens(tagged, form, is_required):
    options = {"form": form, "is_required": is_required}
    assert takes(tagged, CALLS[form], **options)
    assert not takes(tagged, CALLS[form].replace("1", "true"), **options)
    for thinking, thought in ((Thinking.PERHAPS, "<think>hm</think>\n"), (Thinking.BEGUN, "hm</think>\n")):
        assert takes(tagged, thought + CALLS[form], thinking=thinking, **options)
        assert not takes(tagged, thought + CALLS[form].replace("1", "true"), thinking=thinking, **options)


@pytest.mark.parametrize("form", TAGGED_FORMS)
def test_text_before_a_tag_that_is_a_token_is_free(tagged, form):
    assert takes(tagged, f"Let me see. {CALLS[form]}", form=form, is_required=False)
    assert takes(tagged, "Let me see. < [", form=form, is_required=False)


def test_python_tag_may_be_a_token(tagged):
    text = "<|python_tag|>" + CALLS[ToolFormat.LLAMA_JSON]
    assert takes(tagged, text, form=ToolFormat.LLAMA_JSON, is_required=False)


@pytest.mark.parametrize("form", TAGGED_FORMS)
def test_a_tag_that_is_a_token_cannot_be_spelled_instead(tagged, form):
    """What the parser would take for a call is one under the grammar too."""
    tokenizer, for_grammars = tagged
    grammar = tool_grammar(form, TOOLS, is_required=False, is_parallel=True, token_id=tokenizer.token_to_id)
    matcher = LLMatcher(for_grammars, json.dumps({"grammars": [{"lark_grammar": grammar}]}), log_level=0)
    spelled = [tokenizer.token_to_id(char) for char in form.tags[0]]
    assert not all(map(matcher.consume_token, spelled))
