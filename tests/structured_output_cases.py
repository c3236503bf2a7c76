"""Grammars of every kind, each with a prompt and a check of the answer that does not come from the grammar engine.

Used by `tests/integration/test_structured_output.py` and `scripts/check_structured_output.py`.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jsonschema

from ipc.structured_output import GrammarKind, StructuredOutput


@dataclass(frozen=True)
class Case:
    """A grammar, what to ask, and what a whole answer must satisfy."""

    name: str
    structured_output: StructuredOutput
    prompt: str
    validate: Callable[[str], None]
    """Raises for an answer that is not one."""


def _object(properties: dict[str, Any], *, required: list[str] | None = None, **more: Any) -> dict[str, Any]:
    required = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False, **more}


def _text(max_length: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": max_length}


_POINT = _object({"x": {"type": "number", "minimum": -10, "maximum": 10}, "y": {"type": "integer", "minimum": 0}})

SCHEMAS: dict[str, tuple[dict[str, Any], str]] = {
    "nested objects": (
        _object({"person": _object({"name": _text(20), "home": _object({"city": _text(20), "zip": _text(8)})})}),
        "Where does Ada Lovelace live?",
    ),
    "bounded arrays": (
        _object({"colors": {"type": "array", "items": _text(12), "minItems": 2, "maxItems": 4}}),
        "Name some colors.",
    ),
    "enum": (
        _object({"size": {"enum": ["small", "medium", "large"]}, "count": {"enum": [1, 2, None, True]}}),
        "Which T-shirt do you want?",
    ),
    "bounded numbers": (_object({"points": {"type": "array", "items": _POINT, "maxItems": 2}}), "Give me two points."),
    "pattern": (
        _object({"phone": {"type": "string", "pattern": "^\\+[0-9]{2} [0-9]{3,7}$"}, "code": {"pattern": "^[A-F]{4}$"}})
        | {"required": ["phone"]},
        "What is your phone number?",
    ),
    "anyOf": (
        {"anyOf": [_object({"kind": {"const": "circle"}, "radius": {"type": "integer", "maximum": 99}}), _POINT]},
        "Describe a shape.",
    ),
    "recursive $ref": (
        {
            "$ref": "#/$defs/node",
            "$defs": {
                "node": _object(
                    {"name": _text(8), "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 1}},
                    required=["name"],
                )
            },
        },
        "Draw a small family tree.",
    ),
    "optional properties": (
        _object({"title": _text(20), "year": {"type": "integer"}, "rating": {"type": "number"}}, required=["title"]),
        "Recommend a movie.",
    ),
    "const and formats": (
        _object({"version": {"const": 1}, "day": {"type": "string", "format": "date"}, "ip": {"format": "ipv4"}})
        | {"required": ["version", "day"]},
        "When was the server installed?",
    ),
    "array of anything short": (
        {
            "type": "array",
            "items": {"type": ["string", "integer", "boolean", "null"], "maxLength": 10},
            "minItems": 1,
            "maxItems": 5,
        },
        "Say five things.",
    ),
}
REGEXES = {
    r"[A-Z][a-z]{2,10}( [A-Z][a-z]{2,10})?": "Who wrote Hamlet?",
    r"(yes|no|maybe), because [a-z ]{5,40}\.": "Is the sky blue?",
    r"\d{4}-(0[1-9]|1[0-2])-([0-2][0-9]|3[01])": "When did the war end?",
    r"[a-z0-9_.]{1,12}@[a-z]{2,10}\.(com|org|net)": "What is your mail address?",
    r"(- [^\n]{3,30}\n){2,3}": "List some fruits.",
}
ARITHMETIC = """start: sum
sum: product (" + " product){0,3}
product: atom (" * " atom){0,2}
atom: NUMBER | "(" sum ")"
NUMBER: /[0-9]{1,3}/
"""
QUERY = """start: "SELECT " columns " FROM " NAME (" WHERE " NAME " = " NUMBER)? ";"
columns: "*" | NAME (", " NAME)*
NAME: /[a-z]{1,10}/
NUMBER: /[0-9]{1,4}/
"""
POEM = """start: line "\\n" line
line: WORD (" " WORD){2,5}
WORD: /[a-z]{1,8}/
"""
LARKS = {
    ARITHMETIC: ("What is a sum?", r"[0-9 +*()]+"),
    QUERY: (
        "Write a query.",
        r"SELECT (\*|[a-z]{1,10}(, [a-z]{1,10})*) FROM [a-z]{1,10}( WHERE [a-z]{1,10} = \d{1,4})?;",
    ),
    POEM: ("Write a poem.", r"[a-z]{1,8}( [a-z]{1,8}){2,5}\n[a-z]{1,8}( [a-z]{1,8}){2,5}"),
}


def _schema_check(schema: dict[str, Any]) -> Callable[[str], None]:
    def check(answer: str) -> None:
        jsonschema.validate(json.loads(answer), schema, format_checker=jsonschema.FormatChecker())

    return check


def _regex_check(regex: str, *, is_arithmetic: bool = False) -> Callable[[str], None]:
    def check(answer: str) -> None:
        if re.fullmatch(regex, answer) is None:
            raise ValueError(f"{answer!r} does not match {regex}")
        if is_arithmetic:
            compile(re.sub(r"\b0+(?=\d)", "", answer), "answer", "eval")  # only digits, + * ( ): it must parse

    return check


def _all_cases() -> list[Case]:
    cases = [
        Case(name, StructuredOutput(GrammarKind.JSON_SCHEMA, json.dumps(schema)), prompt, _schema_check(schema))
        for name, (schema, prompt) in SCHEMAS.items()
    ]
    cases += [
        Case(f"regex {regex[:20]}", StructuredOutput(GrammarKind.REGEX, regex), prompt, _regex_check(regex))
        for regex, prompt in REGEXES.items()
    ]
    for number, (lark, (prompt, regex)) in enumerate(LARKS.items()):
        check = _regex_check(regex, is_arithmetic=lark is ARITHMETIC)
        cases.append(Case(f"lark {number + 1}", StructuredOutput(GrammarKind.LARK, lark), prompt, check))
    return cases


CASES = _all_cases()


def endless_grammar(num_patterns: int = 30) -> StructuredOutput:
    """A schema of 1 KB whose patterns llguidance intersects for longer than anybody can wait."""
    patterns = [{"type": "string", "pattern": f"a.{{{number}}}b"} for number in range(num_patterns)]
    return StructuredOutput(GrammarKind.JSON_SCHEMA, json.dumps({"allOf": patterns}))
