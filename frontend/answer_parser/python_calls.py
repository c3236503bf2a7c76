"""Calls in Python's syntax, `[name(key=value, …), …]`, which are the whole answer; their arguments become JSON.

Values that are JSON stay as they are written; other constants of Python are read by `ast` and written anew. Nothing is
evaluated. Invariant: a call is given out when it is complete; what is no call of a function of the request, and all
that follows it, is content.
"""

import ast
import json
import re
import warnings
from collections.abc import Collection, Iterator
from typing import Any, NoReturn

from frontend.answer_parser.call_scanner import CallCounter
from frontend.answer_parts import ContentDelta, Part, ToolCallArguments

MAX_CALL_CHARS = 100_000
"""Longer calls are content: Python's parser takes much memory."""
PYTHON_KEY = re.compile(r"[\w.$@-]+")
"""Names of arguments; also those that Python has other uses for, like `from`."""

_KEYWORD = re.compile(rf"\s*({PYTHON_KEY.pattern})\s*=")
_WHITESPACE = " \t\r\n"
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
_CONSTANTS = {"true": True, "false": False, "null": None}


class PythonCallParser:
    """A list of calls; an `AnswerParser`."""

    def __init__(self, names: Collection[str]) -> None:
        """`names`: of the tools; a list with another name is content."""
        self._names = names
        self._counter = CallCounter()
        self._opening = ""
        """What stood before the arguments that are being read."""
        self._held = ""
        """Not understood yet."""
        self._name = ""
        self._arguments: _Scan | None = None
        self._is_list_over = False
        self._is_content = False

    def push(self, text: str) -> list[Part]:
        """Take in more text; returns what is certain."""
        self._held += text
        parts: list[Part] = []
        while not self._is_content:
            if self._arguments is None and not self._has_begun():
                return parts
            if self._arguments is not None:
                call = self._read_arguments(self._arguments)
                if not call and not self._is_content:
                    return parts
                parts += call
        return parts + self._content()

    def finish(self) -> list[Part]:
        """What is left when the answer is over."""
        if self._counter.count and self._arguments is None and self._held.strip(_WHITESPACE) in ("", ","):
            return []
        return self._content()

    def _has_begun(self) -> bool:
        """Decide what comes next: a call (`_arguments`) or content; False where more text is needed for that."""
        stripped = self._held.lstrip(_WHITESPACE)
        if self._counter.count and not self._is_list_over and stripped.startswith("]"):
            self._is_list_over, self._held = True, stripped[1:]
            stripped = stripped[1:].lstrip(_WHITESPACE)
        if not stripped:
            return False
        before = "," if self._counter.count else "["
        name, parenthesis, behind = stripped.removeprefix(before).lstrip(_WHITESPACE).partition("(")
        if self._is_list_over or stripped[0] != before or not self._may_be_name(name, is_whole=bool(parenthesis)):
            self._is_content = True
        elif not parenthesis:
            return False
        else:
            self._opening = self._held[: len(self._held) - len(behind)]
            self._name, self._held, self._arguments = name, behind, _Scan(")")
        return True

    def _may_be_name(self, text: str, *, is_whole: bool) -> bool:
        return text in self._names or (not is_whole and any(name.startswith(text) for name in self._names))

    def _read_arguments(self, scan: "_Scan") -> list[Part]:
        end = scan.find(self._held)
        if end < 0 and len(self._held) <= MAX_CALL_CHARS:
            return []
        arguments = _json_arguments(self._held[:end]) if 0 <= end <= MAX_CALL_CHARS else None
        self._arguments = None
        if arguments is None:
            self._is_content, self._held = True, self._opening + self._held
            return []
        self._held = self._held[end + 1 :]
        call = self._counter.start(self._name)
        return [call, ToolCallArguments(call.index, arguments)]

    def _content(self) -> list[Part]:
        text = (self._opening if self._arguments is not None else "") + self._held
        self._arguments, self._held = None, ""
        return [ContentDelta(text)] if text else []


class _Scan:
    """Finds the first of some characters that stands in no string and no brackets, in a text that grows."""

    def __init__(self, ends: str, start: int = 0) -> None:
        self._ends = ends
        self._position = start
        self._depth = 0
        self._quote = ""
        self._is_escaped = False

    def find(self, text: str) -> int:
        """Where it is, or -1; goes on where the last search ended."""
        for position in range(self._position, len(text)):
            char = text[position]
            if self._quote:
                self._read_string(char)
            elif not self._depth and char in self._ends:
                return position
            elif char in ("'", '"'):
                self._quote = char
            elif char in _OPENING:
                self._depth += 1
            elif char in _CLOSING:
                self._depth = max(0, self._depth - 1)
        self._position = len(text)
        return -1

    def _read_string(self, char: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == self._quote:
            self._quote = ""


def _json_arguments(text: str) -> str | None:
    """`key=value, …` as a JSON object; None if this is anything else."""
    items: dict[str, str] = {}
    try:
        for key, value in _keywords(text):
            if key in items:
                return None
            items[key] = _json_value(value.strip())
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None
    return "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {value}" for key, value in items.items()) + "}"


def _keywords(text: str) -> Iterator[tuple[str, str]]:
    position, text = 0, text.rstrip()
    while position < len(text):
        match = _KEYWORD.match(text, position)
        if match is None:
            raise ValueError("no named argument")
        end = _Scan(",", match.end()).find(text)
        end = len(text) if end < 0 else end
        yield match[1], text[match.end() : end]
        position = end + 1


def _json_value(text: str) -> str:
    try:
        json.loads(text, parse_int=str, parse_float=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes that are none
            value = _constant(ast.parse(text, mode="eval").body)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()  # raises for halves of surrogate pairs
    return text


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _constant(node: ast.expr) -> Any:
    """A constant, a list or a dictionary; JSON's names of constants count too. Nothing is evaluated."""
    match node:
        case ast.Name(id) if id in _CONSTANTS:
            return _CONSTANTS[id]
        case ast.List(elts) | ast.Tuple(elts):
            return [_constant(item) for item in elts]
        case ast.Dict(keys, values):
            return {_key(key): _constant(value) for key, value in zip(keys, values, strict=True)}
        case _:
            return ast.literal_eval(node)


def _key(node: ast.expr | None) -> str:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        raise ValueError("a key that is no string")
    return node.value
