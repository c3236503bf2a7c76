"""What a grammar of calls is made for: the functions that may be called, reasoning before, a schema of the content.

Made by `frontend/openai/tool_calls.py`, written down by `tool_grammar.py`. Invariant: a rule of the grammar that has a
schema is named so that `refused_param` finds the field of the body that the schema came from.
"""

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

_RULE_WITH_SCHEMA = re.compile(r"(?:content|(?:arguments_|value_)(\d+))")


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
    index: int
    """Among the tools of the body."""
    is_lenient: bool = False
    """Keywords of the schema that cannot be enforced are left out."""


@dataclass(frozen=True, slots=True)
class ContentSchema:
    """The JSON schema of an answer's content."""

    schema: dict[str, Any]
    is_lenient: bool = False
    """Keywords that cannot be enforced are left out."""


def parameters_param(index: int) -> str:
    """Where the parameters of a tool stand in a body."""
    return f"tools.{index}.function.parameters"


def refused_param(message: str) -> str:
    """Where the schema stands that llguidance refuses; its message begins with a line of the grammar and quotes it."""
    at = re.match(r"at (\d+)\(", message)
    rule = at and re.search(rf"^\s*{at[1]} \| {_RULE_WITH_SCHEMA.pattern}", message, re.MULTILINE)
    if not rule:
        return "tools"
    return parameters_param(int(rule[1])) if rule[1] else "response_format"
