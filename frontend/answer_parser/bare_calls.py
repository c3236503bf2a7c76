"""Calls that are the whole answer, without a tag that is always there: llama's JSON objects.

Invariant: an answer that does not begin like a call is content as it is; only whitespace beside calls is dropped.
"""

from collections.abc import Collection

from frontend.answer_parser.call_scanner import CallCounter, CallScanner
from frontend.answer_parts import ContentDelta, Part

PYTHON_TAG = "<|python_tag|>"
"""Stands before a call in some of llama's models."""

_WHITESPACE, _SEPARATORS = " \t\r\n", " \t\r\n;,"


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
        self._scanner = CallScanner(self._counter, self._names.__contains__, is_name_first=True)
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
