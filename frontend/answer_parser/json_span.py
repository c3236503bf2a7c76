"""Finds the end of one JSON value in a text that comes in pieces, without reading what is in it.

Used by `call_scanner.py` and `tagged_calls.py`. Invariant: how the text is cut does not matter.
"""

import re

_OPENING, _CLOSING = frozenset("{["), frozenset("}]")
_PLAIN, _PLAIN_IN_STRING = re.compile(r'[^"{}\[\]]*'), re.compile(r'[^"\\]*')
_AFTER_SCALAR = frozenset(",]} \t\r\n")


class JsonSpan:
    """One value, beginning with the first character that is pushed."""

    def __init__(self) -> None:
        self.is_over = False
        self.is_container = False
        self.is_string = False
        self.has_begun = False
        self._depth = 0
        self._in_string = False
        self._is_escaped = False

    def push(self, char: str) -> bool:
        """Take in the next character; False if it comes after the value."""
        if not self.has_begun:
            self.has_begun = True
            self.is_container = char in _OPENING
            self.is_string = char == '"'
            if not self.is_container and not self.is_string:
                return True  # a number, true, false or null: what follows ends it
        elif not self.is_container and not self.is_string:
            self.is_over = char in _AFTER_SCALAR
            return not self.is_over
        self._advance(char)
        return True

    def plain_end(self, text: str, position: int) -> int:
        """Where the next character stands that may change anything, from `position` on; those before it belong to the
        value and need no `push`."""
        if self._is_escaped or not (self._in_string or self._depth):
            return position
        match = (_PLAIN_IN_STRING if self._in_string else _PLAIN).match(text, position)
        return match.end() if match else position

    def _advance(self, char: str) -> None:
        if self._in_string:
            if self._is_escaped:
                self._is_escaped = False
            elif char == "\\":
                self._is_escaped = True
            elif char == '"':
                self._in_string = False
        elif char == '"':
            self._in_string = True
        elif char in _OPENING:
            self._depth += 1
        elif char in _CLOSING:
            self._depth -= 1
        self.is_over = self._depth <= 0 and not self._in_string
