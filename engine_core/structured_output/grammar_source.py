"""From the API's kinds of grammar to llguidance's own, with the limits that llguidance has not.

Used by `grammar_compiler.py`. What llguidance cannot enforce it refuses later; here nothing is made looser either.
Invariant: what a user wrote is data: no kind of grammar can be smuggled in as another.
"""

import json
from typing import TYPE_CHECKING, Any, NoReturn

from llguidance import LLMatcher

from engine_core.structured_output.grammar import GrammarError
from ipc.structured_output import GrammarKind, StructuredOutput

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions  # in the stubs only

MAX_SCHEMA_DEPTH = 64
MAX_SCHEMA_PROPERTIES = 1_000

_BOUNDED_WHITESPACE: "JsonCompileOptions" = {"whitespace_pattern": r"\n? {0,16}"}
"""Between two JSON tokens: nothing, or one line break and its indentation. JSON allows any amount, and a small model
that has begun with it often never stops: here it comes to an end. A schema with `x-guidance` chooses for itself."""


def llguidance_grammar(structured_output: StructuredOutput) -> str:
    """The grammar as llguidance reads it.

    Raises:
        GrammarError: it is malformed or exceeds a limit; the message is for its user.
    """
    spec = structured_output.spec
    match structured_output.kind:
        case GrammarKind.JSON_OBJECT:
            return _json_grammar('{"type": "object"}', _BOUNDED_WHITESPACE)
        case GrammarKind.JSON_SCHEMA | GrammarKind.LENIENT_JSON_SCHEMA as kind:
            schema = _checked_schema(spec)
            defaults = {} if "x-guidance" in schema else _BOUNDED_WHITESPACE
            return _json_grammar(spec, defaults, is_lenient=kind is GrammarKind.LENIENT_JSON_SCHEMA)
        case GrammarKind.REGEX:
            return LLMatcher.grammar_from_regex(spec)
        case GrammarKind.CHOICE:
            return LLMatcher.grammar_from_regex("|".join(_escape(choice) for choice in _choices(spec)))
        case GrammarKind.LARK:
            return json.dumps({"grammars": [{"lark_grammar": spec}]})  # a bare text could be JSON, which is not Lark
        case GrammarKind.NONE:
            raise GrammarError("there is no grammar")


def _json_grammar(schema: str, defaults: "JsonCompileOptions", *, is_lenient: bool = False) -> str:
    """Keywords that cannot be enforced are refused unless `is_lenient`, whatever the schema says."""
    try:
        return LLMatcher.grammar_from_json_schema(schema, defaults=defaults, overrides={"lenient": is_lenient})
    except ValueError as error:
        raise GrammarError(str(error)) from error


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise GrammarError(f"the JSON is nested deeper than {MAX_SCHEMA_DEPTH} levels") from error
    except ValueError as error:
        raise GrammarError(f"this is not JSON: {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _checked_schema(spec: str) -> dict[str, Any]:
    schema = _parse_json(spec)
    if not isinstance(schema, dict):
        raise GrammarError("a JSON schema must be an object")
    num_properties = 0
    nodes: list[tuple[Any, int]] = [(schema, 1)]
    while nodes:
        node, depth = nodes.pop()
        if depth > MAX_SCHEMA_DEPTH:
            raise GrammarError(f"the JSON schema is nested deeper than {MAX_SCHEMA_DEPTH} levels")
        if isinstance(node, dict) and isinstance(node.get("properties"), dict):
            num_properties += len(node["properties"])
        children = node.values() if isinstance(node, dict) else node
        nodes += [(child, depth + 1) for child in children if isinstance(child, dict | list)]
    if num_properties > MAX_SCHEMA_PROPERTIES:
        raise GrammarError(f"the JSON schema has {num_properties} properties, the limit is {MAX_SCHEMA_PROPERTIES}")
    return schema


def _choices(spec: str) -> list[str]:
    choices = _parse_json(spec)
    if not isinstance(choices, list) or not choices:
        raise GrammarError("choices must be a JSON array with at least one string")
    for choice in choices:
        if not isinstance(choice, str) or not choice:
            raise GrammarError("each choice must be a string that is not empty")
        try:
            choice.encode()
        except UnicodeEncodeError as error:
            raise GrammarError("a choice is not valid Unicode") from error
    return choices


def _escape(text: str) -> str:
    """A regular expression for exactly this text: every character that could mean something, by its code point."""
    return "".join(char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):x}}}" for char in text)
