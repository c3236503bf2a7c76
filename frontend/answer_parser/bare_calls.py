"""Calls that are the whole answer, without a tag: llama's JSON objects, and python calls in a list.

Invariant: an answer that does not begin like a call is content as it is; only whitespace beside calls is dropped.
Python calls are given out at the end, since a list that breaks is no call at all.
"""

import ast
import re
import warnings
from collections.abc import Collection
from typing import Any

import orjson

from frontend.answer_parser.call_scanner import CallCounter, CallScanner
from frontend.answer_parts import ContentDelta, Part, ToolCallArguments

PYTHON_TAG = "<|python_tag|>"
"""Stands before a call in some of llama's models."""
MAX_PYTHON_CHARS = 100_000
"""Longer lists of calls are content: Python's parser takes much memory."""

_WHITESPACE, _SEPARATORS = " \t\r\n", " \t\r\n;,"
_PYTHON_BEGIN = re.compile(r"\s*\[\s*[A-Za-z_][\w.]*\s*\(")
_PYTHON_MAY_BEGIN = re.compile(r"\s*(\[\s*([A-Za-z_][\w.]*\s*)?)?")
_CONSTANTS = {"true": True, "false": False, "null": None}


class JsonCallParser:
    """Objects one after the other, perhaps divided by semicolons; an `AnswerParser`."""

    def __init__(self, names: Collection[str]) -> None:
        """`names`: of the tools; an object with another name is content."""
        self._names = names
        self._counter = CallCounter()
        self._scanner: CallScanner | None = None
        self._opening = ""
        """What stood before the object that is being read."""
        self._held = ""
        """Not understood yet."""
        self._is_content = False

    def push(self, text: str) -> list[Part]:
        """Take in more text; returns what is certain."""
        self._held += text
        parts: list[Part] = []
        while not self._is_content:
            if self._scanner is None and not self._has_begun():
                return parts
            if self._scanner is not None:
                parts += self._read_object(self._scanner)
                if self._scanner is not None and not self._is_content:
                    return parts
        return parts + self._content()

    def finish(self) -> list[Part]:
        """What is left when the answer is over."""
        if self._scanner is not None:
            if self._scanner.has_call:
                return []
            self._held = self._opening + self._scanner.raw
        elif self._counter.count and not self._held.strip(_SEPARATORS):
            return []
        return self._content()

    def _has_begun(self) -> bool:
        """Decide what comes next: an object (`_scanner`) or content; False where more text is needed for that."""
        stripped = self._held.lstrip(_SEPARATORS if self._counter.count else _WHITESPACE)
        if len(stripped) < len(PYTHON_TAG) and PYTHON_TAG.startswith(stripped):
            return False
        behind = stripped.removeprefix(PYTHON_TAG).lstrip(_WHITESPACE)
        if not behind:
            return False
        if behind[0] != "{":
            self._is_content = True
            return True
        self._opening = self._held[: len(self._held) - len(behind)]
        self._held = behind
        self._scanner = CallScanner(self._counter, self._names.__contains__)
        return True

    def _read_object(self, scanner: CallScanner) -> list[Part]:
        parts, self._held = scanner.push(self._held)
        if scanner.is_broken:
            self._is_content = True
            if not scanner.has_call:
                self._held = self._opening + scanner.raw + self._held
        if scanner.is_broken or scanner.is_done:
            self._scanner = None
        return parts

    def _content(self) -> list[Part]:
        text, self._held = self._held, ""
        return [ContentDelta(text)] if text else []


class PythonCallParser:
    """`[name(key=value, …), …]`; an `AnswerParser`."""

    def __init__(self) -> None:
        self._held = ""
        self._is_content = False

    def push(self, text: str) -> list[Part]:
        """Take in more text; returns what is certain."""
        self._held += text
        may_be_calls = _PYTHON_BEGIN.match(self._held) or _PYTHON_MAY_BEGIN.fullmatch(self._held)
        if not may_be_calls or len(self._held) > MAX_PYTHON_CHARS:
            self._is_content = True
        if not self._is_content:
            return []
        text, self._held = self._held, ""
        return [ContentDelta(text)] if text else []

    def finish(self) -> list[Part]:
        """The calls, or the text where it is none."""
        calls = None if self._is_content else _python_calls(self._held)
        if not calls:
            return [ContentDelta(self._held)] if self._held else []
        counter = CallCounter()
        parts: list[Part] = []
        for name, arguments in calls:
            call = counter.start(name)
            parts += [call, ToolCallArguments(call.index, arguments)]
        return parts


def _python_calls(text: str) -> list[tuple[str, str]] | None:
    """Name and arguments (as JSON) of each call; None if this is no list of calls with constants."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes that are none
            tree = ast.parse(text.strip(), mode="eval").body
        if not isinstance(tree, ast.List):
            return None
        return [_python_call(node) for node in tree.elts]
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None


def _python_call(node: ast.expr) -> tuple[str, str]:
    if not isinstance(node, ast.Call) or node.args or not isinstance(node.func, ast.Name | ast.Attribute):
        raise ValueError("no call with named arguments")
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("unpacked arguments")
        arguments[keyword.arg] = _constant(keyword.value)
    return ast.unparse(node.func), orjson.dumps(arguments).decode()


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
