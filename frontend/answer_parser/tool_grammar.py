"""The grammar of tool calls: under it a model can only write calls that the parsers here read, with valid arguments.

In llguidance's dialect of Lark. Calls that must come (`required`, a named function) are the whole answer; calls that
may come (`auto`) are enforced lazily: free text, in which the opening tag begins a call. JSON is written as models were
trained on it, with one space behind commas and colons, so that an answer cannot run away into whitespace.
Called by `frontend/openai/tool_calls.py`; the core compiles it. Next: `engine_core/structured_output/`.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from frontend.answer_parser.callable_tools import CallableTool, ContentSchema, Thinking, parameters_param
from frontend.answer_parser.formats import ToolFormat
from frontend.answer_parser.python_calls import PYTHON_KEY
from frontend.answer_parser.reasoning import END_OF_THINK_TAG, THINK_TAG
from frontend.answer_parser.schema_annotations import without_annotations
from ipc.errors import InvalidRequestError

MAX_CALLS = 16
"""Most calls of one answer under a grammar."""

_NO_PARAMETERS: dict[str, Any] = {"properties": {}, "additionalProperties": False}
"""OpenAI: a function without `parameters` has none."""
_PYTHON_KEYWORDS = frozenset(
    {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "$schema",
        "title",
        "description",
        "$defs",
        "definitions",
    }
)
_SPACE = r"[ \t\r\n]*"
_OTHER_REFERENCE = re.compile(r'"\$(ref|dynamicRef|recursiveRef)": "(?!#/(\$defs|definitions)/)')
"""A reference to what a schema of one argument does not have."""


def tool_grammar(
    form: ToolFormat,
    tools: Sequence[CallableTool],
    *,
    is_required: bool,
    is_parallel: bool,
    thinking: Thinking = Thinking.NEVER,
    content: ContentSchema | None = None,
    token_id: Callable[[str], int | None] = lambda tag: None,
) -> str:
    """The grammar of an answer with calls of these tools.

    `is_required`: nothing but calls, at least one. `content`: what an answer without a call must match; calls then
    come without any text around them.
    `token_id(tag)`: the id where a tag is a token of its own. It is named by that id: llguidance takes special tokens,
    and all that look like `<…>`, for no text.

    Raises:
        InvalidRequestError: a schema cannot be enforced in this form.
    """
    return _Writer(form, tools, token_id).grammar(
        is_required=is_required,
        max_calls=MAX_CALLS if is_parallel else 1,
        thinking=thinking,
        content=content,
    )


class _Writer:
    """Collects the rules of one grammar."""

    def __init__(self, form: ToolFormat, tools: Sequence[CallableTool], token_id: Callable[[str], int | None]) -> None:
        self._form = form
        self._tools = tools
        self._token_id = token_id
        self._rules: list[str] = []

    def grammar(self, *, is_required: bool, max_calls: int, thinking: Thinking, content: ContentSchema | None) -> str:
        if is_required:
            answer = self._required(max_calls)
        elif content is None:
            answer = self._automatic(max_calls, thinking)
        else:
            schema = {**content.schema, "x-guidance": _guidance(is_lenient=content.is_lenient)}
            self._rules.append(f"content: %json {_json(schema)}")
            answer = f"content | {self._required(max_calls)}"
        if thinking is Thinking.NEVER:
            return self._with_rules("answer", answer)
        end = self._tag(END_OF_THINK_TAG)
        if self._token_id(END_OF_THINK_TAG) is None:
            self._rules.append(rf"thought[lazy]: /(.|\n)*{_regex(END_OF_THINK_TAG)}/")
        else:
            self._rules.append(f"thought: THOUGHT {end}")
            self._rules.append(f"THOUGHT: {_text_without(END_OF_THINK_TAG)}")
        self._rules.append(r"SPACE: /\s*/")
        if thinking is Thinking.BEGUN:
            return self._with_rules("thought SPACE answer", answer)
        return self._with_rules(f"({self._tag(THINK_TAG)} thought SPACE)? answer", answer)

    def _with_rules(self, start: str, answer: str) -> str:
        return "\n".join([f"start: {start}", f"answer: {answer}", *self._rules]) + "\n"

    # --- the answer ---

    def _required(self, max_calls: int) -> str:
        match self._form:
            case ToolFormat.HERMES:
                return _repeated(f"{self._tag(self._form.tags[0])} {self._after_hermes_tag()}", r'"\n"', max_calls)
            case ToolFormat.MISTRAL:
                return f"{self._tag(self._form.tags[0])} {self._object_list(max_calls)}"
            case ToolFormat.MISTRAL_NAMED:
                return _repeated(f"{self._tag(self._form.tags[0])} {self._named_call()}", "", max_calls)
            case ToolFormat.LLAMA_JSON:
                return self._object("parameters")
            case ToolFormat.PYTHON:
                return self._python_list(max_calls)

    def _automatic(self, max_calls: int, thinking: Thinking) -> str:
        """Calls, or text in which none begins."""
        match self._form:
            case ToolFormat.HERMES:
                return self._tagged(self._after_hermes_tag(), max_calls)
            case ToolFormat.MISTRAL:
                return self._tagged(self._object_list(max_calls), 1)
            case ToolFormat.MISTRAL_NAMED:
                return self._tagged(self._named_call(), max_calls)
            case ToolFormat.LLAMA_JSON:
                calls = self._automatic_object(thinking)
            case ToolFormat.PYTHON:
                calls = self._automatic_python_list(max_calls, thinking)
        return f"TEXT | {calls}"

    def _automatic_object(self, thinking: Thinking) -> str:
        tag = self._form.tags[0]
        opening = rf'\{{{_SPACE}("type"{_SPACE}:{_SPACE}"function"{_SPACE},{_SPACE})*"name"{_SPACE}:{_SPACE}"'
        opening = rf"{_SPACE}({_regex(tag)}{_SPACE})?{opening}"
        begun = zip(self._beginnings(opening, '"', thinking), self._tools, strict=True)
        between = _literal(', "parameters": ')
        self._add_rule("tool", [f"{begin} {between} {self._arguments(tool)}" for begin, tool in begun])
        return 'tool "}"' if self._token_id(tag) is None else f'{self._tag(tag)}? tool "}}"'

    def _automatic_python_list(self, max_calls: int, thinking: Thinking) -> str:
        keywords = [self._keywords(tool) for tool in self._tools]
        begun = zip(self._beginnings(rf"{_SPACE}\[{_SPACE}", r"\(", thinking), keywords, strict=True)
        self._add_rule("first_tool", [f'{begin} {rule} ")"' for begin, rule in begun])
        named = zip(self._tools, keywords, strict=True)
        self._add_rule("tool", [f'{_literal(tool.name + "(")} {rule} ")"' for tool, rule in named])
        return f'first_tool ({_literal(", ")} tool){{0,{max_calls - 1}}} "]"'

    def _beginnings(self, before: str, behind: str, thinking: Thinking) -> list[str]:
        """Rules of what turns text into calls: patterns around the names of the tools. TEXT does not begin so; nor
        with reasoning, behind which calls may come."""
        names = [_regex(tool.name) for tool in self._tools]
        rules = [f"begin_{tool.index}" for tool in self._tools]
        self._rules += [f"{rule}[lazy]: /{before}{name}{behind}/" for rule, name in zip(rules, names, strict=True)]
        excluded = rf"{before}({'|'.join(names)}){behind}"
        if thinking is Thinking.PERHAPS:
            excluded += rf"|{_SPACE}{_regex(THINK_TAG)}"
        self._rules.append(rf"TEXT: /(.|\n)*/ & ~/({excluded})(.|\n)*/")
        return rules

    def _tagged(self, call: str, max_calls: int) -> str:
        tag = self._form.tags[0]
        calls = f"(lead {call}){{1,{max_calls}}} TEXT"
        if self._token_id(tag) is None:
            self._rules.append(rf"lead[lazy]: /(.|\n)*{_regex(tag)}/")
        else:
            self._rules.append(f"lead: TEXT {self._tag(tag)}")
        self._rules.append(f"TEXT: {_text_without(tag)}")
        return f"TEXT | {calls}"

    # --- one call ---

    def _after_hermes_tag(self) -> str:
        return rf'"\n" {self._object("arguments")} "\n" {self._tag(self._form.tags[1])}'

    def _object_list(self, max_calls: int) -> str:
        return f'/ ?/ "[" {_repeated(self._object("arguments"), _literal(", "), max_calls)} "]"'

    def _object(self, arguments_key: str) -> str:
        alternatives = [
            f"{_literal(json.dumps(tool.name) + ', ' + json.dumps(arguments_key) + ': ')} {self._arguments(tool)}"
            for tool in self._tools
        ]
        self._add_rule("tool", alternatives)
        return f'{_literal("{" + json.dumps("name") + ": ")} tool "}}"'

    def _named_call(self) -> str:
        self._add_rule(
            "tool",
            [f"{_literal(tool.name)} {self._tag(self._form.tags[1])} {self._arguments(tool)}" for tool in self._tools],
        )
        return "tool"

    def _arguments(self, tool: CallableTool) -> str:
        """A rule for the arguments of a tool as a JSON object."""
        schema = {"type": "object", **_parameters(tool)}
        schema["x-guidance"] = _guidance(is_lenient=tool.is_lenient)
        self._rules.append(f"arguments_{tool.index}: %json {_json(schema)}")
        return f"arguments_{tool.index}"

    def _add_rule(self, name: str, alternatives: Sequence[str]) -> None:
        self._rules.append(f"{name}: " + "\n  | ".join(alternatives))

    def _tag(self, tag: str) -> str:
        token_id = self._token_id(tag)
        return _literal(tag) if token_id is None else f"<[{token_id}]>"

    # --- python ---

    def _python_list(self, max_calls: int) -> str:
        calls = [f'{_literal(tool.name + "(")} {self._keywords(tool)} ")"' for tool in self._tools]
        self._add_rule("tool", calls)
        return f'"[" {_repeated("tool", _literal(", "), max_calls)} "]"'

    def _keywords(self, tool: CallableTool) -> str:
        """Named arguments in the order of the schema; rule `first_{tool}_{i}` goes on at property i with none before
        it, `next_{tool}_{i}` with a comma."""
        schema = _parameters(tool)
        properties: dict[str, Any] = schema.get("properties", {})
        required = set(schema.get("required", ()))
        if not tool.is_lenient and (schema.keys() - _PYTHON_KEYWORDS or required - properties.keys()):
            raise _not_enforceable(tool, "only type, properties and required")
        definitions: dict[str, Any] = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
        for position, (name, value) in enumerate(properties.items()):
            if not PYTHON_KEY.fullmatch(name):
                raise _not_enforceable(tool, "only properties whose names are letters, digits and _ . $ @ -")
            rule = f"{tool.index}_{position}"
            value = self._python_value(tool, value, definitions)
            self._rules.append(f"value_{rule}: {_literal(name + '=')} %json {_json(value)}")
            skip = "" if name in required else " | {0}_{1}_{2}"
            for prefix, comma in (("first", ""), ("next", '", " ')):
                skipped = skip.format(prefix, tool.index, position + 1)
                written = f"{comma}value_{rule} next_{tool.index}_{position + 1}"
                self._rules.append(f"{prefix}_{rule}: {written}{skipped}")
        end = f"{tool.index}_{len(properties)}"
        self._rules += [f'first_{end}: ""', f'next_{end}: ""']
        return f"first_{tool.index}_0"

    def _python_value(self, tool: CallableTool, value: Any, definitions: dict[str, Any]) -> Any:
        """The schema of one argument, by itself."""
        if not isinstance(value, dict):
            return value
        if _OTHER_REFERENCE.search(json.dumps(value)):
            if not tool.is_lenient:
                raise _not_enforceable(tool, "only references to $defs and definitions")
            value = {}
        return {**definitions, **value, "x-guidance": _guidance(is_lenient=tool.is_lenient)}


def _repeated(item: str, separator: str, max_count: int) -> str:
    if max_count == 1:
        return item
    return f"{item} ({separator} {item}){{0,{max_count - 1}}}"


def _parameters(tool: CallableTool) -> dict[str, Any]:
    schema: dict[str, Any] = without_annotations(tool.parameters or _NO_PARAMETERS)
    return schema


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _guidance(*, is_lenient: bool = False) -> dict[str, Any]:
    """llguidance's options of one schema; they also take the place of any that the schema has."""
    return {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
        "lenient": is_lenient,
    }


def _literal(text: str) -> str:
    return json.dumps(text)


def _regex(text: str) -> str:
    return re.escape(text).replace("/", r"\/")


def _text_without(tag: str) -> str:
    return rf"/(.|\n)*/ & ~/(.|\n)*{_regex(tag)}(.|\n)*/"


def _not_enforceable(tool: CallableTool, limits: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{parameters_param(tool.index)}: calls of this model's form can be enforced with {limits}",
        param=parameters_param(tool.index),
        code="invalid_schema",
    )
