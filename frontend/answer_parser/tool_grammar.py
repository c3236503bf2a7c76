"""The grammar of tool calls: under it a model can only write calls that the parsers here read, with valid arguments.

In llguidance's dialect of Lark. Calls that must come (`required`, a named function) are the whole answer; calls that
may come (`auto`) are enforced lazily: free text, in which the opening tag begins a call. JSON is written as models were
trained on it, with one space behind commas and colons, so that an answer cannot run away into whitespace.
Called by `frontend/openai/tool_calls.py`; the core compiles it. Next: `engine_core/structured_output/`.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from frontend.answer_parser.formats import ToolFormat
from frontend.answer_parser.reasoning import END_OF_THINK_TAG, THINK_TAG
from ipc.errors import InvalidRequestError

MAX_CALLS = 16
"""Most calls of one answer under a grammar."""

_NO_PARAMETERS: dict[str, Any] = {"properties": {}, "additionalProperties": False}
"""OpenAI: a function without `parameters` has none."""
_PYTHON_NAME = re.compile(r"[A-Za-z_]\w*")
_PYTHON_KEYWORDS = frozenset(
    {"type", "properties", "required", "additionalProperties", "$schema", "title", "description"}
)


class Thinking(Enum):
    """Whether reasoning comes before the answer."""

    NEVER = auto()
    PERHAPS = auto()
    """If the answer begins with the tag."""
    BEGUN = auto()
    """The prompt ends with the tag."""


@dataclass(frozen=True, slots=True)
class CallableTool:
    """A function that may be called."""

    name: str
    parameters: dict[str, Any] | None
    param: str
    """Where its parameters stand in the body."""
    is_lenient: bool = False
    """Keywords of the schema that cannot be enforced are left out."""


def tool_grammar(
    form: ToolFormat,
    tools: Sequence[CallableTool],
    *,
    is_required: bool,
    is_parallel: bool,
    thinking: Thinking = Thinking.NEVER,
    content_schema: dict[str, Any] | None = None,
    special_token_id: Callable[[str], int | None] = lambda tag: None,
) -> str:
    """The grammar of an answer with calls of these tools.

    `is_required`: nothing but calls, at least one. `content_schema`: what an answer without a call must match; calls
    then come without any text around them.
    `special_token_id(tag)`: the id where a tag is a special token, which no text can stand for.

    Raises:
        InvalidRequestError: a schema cannot be enforced in this form.
    """
    return _Writer(form, tools, special_token_id).grammar(
        is_required=is_required,
        max_calls=MAX_CALLS if is_parallel else 1,
        thinking=thinking,
        content_schema=content_schema,
    )


class _Writer:
    """Collects the rules of one grammar."""

    def __init__(
        self, form: ToolFormat, tools: Sequence[CallableTool], special_token_id: Callable[[str], int | None]
    ) -> None:
        self._form = form
        self._tools = tools
        self._special_token_id = special_token_id
        self._rules: list[str] = []

    def grammar(
        self, *, is_required: bool, max_calls: int, thinking: Thinking, content_schema: dict[str, Any] | None
    ) -> str:
        if not is_required and content_schema is None:  # its free text may be reasoning as well
            return self._with_rules("answer", self._automatic(max_calls))
        answer = self._required(max_calls)
        if not is_required:
            self._rules.append(f"content: %json {json.dumps({**(content_schema or {}), 'x-guidance': _guidance()})}")
            answer = f"content | {answer}"
        if thinking is Thinking.NEVER:
            return self._with_rules("answer", answer)
        end = self._tag(END_OF_THINK_TAG)
        if self._special_token_id(END_OF_THINK_TAG) is None:
            self._rules.append(rf"thought[lazy]: /(.|\n)*{_regex(END_OF_THINK_TAG)}/")
        else:
            self._rules.append(rf"thought: /(.|\n)*/ {end}")
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

    def _automatic(self, max_calls: int) -> str:
        """Calls, or text in which none begins."""
        match self._form:
            case ToolFormat.HERMES:
                return self._tagged(self._after_hermes_tag(), max_calls)
            case ToolFormat.MISTRAL:
                return self._tagged(self._object_list(max_calls), 1)
            case ToolFormat.MISTRAL_NAMED:
                return self._tagged(self._named_call(), max_calls)
            case ToolFormat.LLAMA_JSON:
                calls, begin = self._object("parameters"), "{"
            case ToolFormat.PYTHON:
                calls, begin = self._python_list(max_calls), r"\["
        tag_id = self._special_token_id(self._form.tags[0]) if self._form.tags else None
        optional_tag = f"<[{tag_id}]>? " if tag_id is not None else ""
        return rf"/(\s*[^{begin}\s](.|\n)*)?/ | {optional_tag}{calls}"

    def _tagged(self, call: str, max_calls: int) -> str:
        tag = self._form.tags[0]
        calls = f"(lead {call}){{1,{max_calls}}} TEXT"
        if self._special_token_id(tag) is None:
            self._rules.append(rf"lead[lazy]: /(.|\n)*{_regex(tag)}/")
            self._rules.append(rf"TEXT: /(.|\n)*/ & ~/(.|\n)*{_regex(tag)}(.|\n)*/")
        else:  # no text can contain the tag
            self._rules.append(f"lead: TEXT {self._tag(tag)}")
            self._rules.append(r"TEXT: /(.|\n)*/")
        return f"TEXT | {calls}"

    # --- one call ---

    def _after_hermes_tag(self) -> str:
        return rf'"\n" {self._object("arguments")} "\n" {self._tag(self._form.tags[1])}'

    def _object_list(self, max_calls: int) -> str:
        return f'/ ?/ "[" {_repeated(self._object("arguments"), _literal(", "), max_calls)} "]"'

    def _object(self, arguments_key: str) -> str:
        alternatives = [
            f"{_literal(json.dumps(tool.name) + ', ' + json.dumps(arguments_key) + ': ')} {self._arguments(number)}"
            for number, tool in enumerate(self._tools)
        ]
        self._add_rule("tool", alternatives)
        return f'{_literal("{" + json.dumps("name") + ": ")} tool "}}"'

    def _named_call(self) -> str:
        self._add_rule(
            "tool",
            [
                f"{_literal(tool.name)} {self._tag(self._form.tags[1])} {self._arguments(number)}"
                for number, tool in enumerate(self._tools)
            ],
        )
        return "tool"

    def _arguments(self, number: int) -> str:
        """A rule for the arguments of a tool as a JSON object."""
        tool = self._tools[number]
        schema = {"type": "object", **(tool.parameters or _NO_PARAMETERS)}
        schema["x-guidance"] = _guidance(is_lenient=tool.is_lenient)
        self._rules.append(f"arguments_{number}: %json {json.dumps(schema)}")
        return f"arguments_{number}"

    def _add_rule(self, name: str, alternatives: Sequence[str]) -> None:
        self._rules.append(f"{name}: " + "\n  | ".join(alternatives))

    def _tag(self, tag: str) -> str:
        token_id = self._special_token_id(tag)
        return _literal(tag) if token_id is None else f"<[{token_id}]>"

    # --- python ---

    def _python_list(self, max_calls: int) -> str:
        calls = [
            f'{_literal(tool.name + "(")} {self._keywords(number, tool)} ")"' for number, tool in enumerate(self._tools)
        ]
        self._add_rule("tool", calls)
        return f'"[" {_repeated("tool", _literal(", "), max_calls)} "]"'

    def _keywords(self, number: int, tool: CallableTool) -> str:
        """Named arguments in the order of the schema; rule `k{number}_{i}` goes on at property i with none before it,
        `c{number}_{i}` with a comma."""
        schema = tool.parameters or _NO_PARAMETERS
        properties: dict[str, Any] = schema.get("properties", {})
        required = set(schema.get("required", ()))
        if not tool.is_lenient and (schema.keys() - _PYTHON_KEYWORDS or required - properties.keys()):
            raise _not_enforceable(tool, "only type, properties and required")
        for position, (name, value) in enumerate(properties.items()):
            if not _PYTHON_NAME.fullmatch(name):
                raise _not_enforceable(tool, "only properties whose names are names in Python")
            value = {**value, "x-guidance": _guidance(is_lenient=tool.is_lenient)} if isinstance(value, dict) else value
            self._rules.append(f"v{number}_{position}: {_literal(name + '=')} %json {json.dumps(value)}")
            skip = "" if name in required else " | {0}{1}_{2}"
            for prefix, comma in (("k", ""), ("c", '", " ')):
                skipped = skip.format(prefix, number, position + 1)
                written = f"{comma}v{number}_{position} c{number}_{position + 1}"
                self._rules.append(f"{prefix}{number}_{position}: {written}{skipped}")
        end = len(properties)
        self._rules += [f'k{number}_{end}: ""', f'c{number}_{end}: ""']
        return f"k{number}_0"


def _repeated(item: str, separator: str, max_count: int) -> str:
    if max_count == 1:
        return item
    return f"{item} ({separator} {item}){{0,{max_count - 1}}}"


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


def _not_enforceable(tool: CallableTool, limits: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{tool.param}: calls of this model's form can be enforced with {limits}",
        param=tool.param,
        code="invalid_schema",
    )
