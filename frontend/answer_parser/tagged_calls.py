"""Calls behind a tag, with text around them: hermes and qwen (`<tool_call>`), mistral (`[TOOL_CALLS]`).

Invariant: all text that is no call is content, in order; only whitespace beside calls is dropped. Content is held back
as far as it may still become a tag, or whitespace before one. Next: `call_scanner.py`.
"""

import re
from abc import ABC, abstractmethod
from typing import ClassVar

from frontend.answer_parser.call_scanner import CallCounter, CallScanner
from frontend.answer_parser.json_span import JsonSpan
from frontend.answer_parser.partial_tag import partial_tag_length
from frontend.answer_parts import ContentDelta, Part, ToolCallArguments

ARGUMENTS_TAG = "[ARGS]"
"""Between name and arguments in mistral's newer form."""

_NAME = re.compile(r"\s*([A-Za-z0-9_.-]{1,64})\s*")


class Section(ABC):
    """What follows one opening tag."""

    has_short_ids: ClassVar[bool] = False

    def __init__(self, counter: CallCounter, opening: str) -> None:
        """`opening`: the tag and the whitespace before it, which are shown where no call follows."""
        self._counter = counter
        self._opening = opening
        self.is_over = False
        self.rest = ""
        """Text behind the section, once it is over."""

    @abstractmethod
    def push(self, text: str) -> list[Part]:
        """Read on."""

    @abstractmethod
    def finish(self) -> list[Part]:
        """The answer ended inside of the section."""

    def _end(self, rest: str) -> None:
        self.is_over, self.rest = True, rest

    def _as_content(self, raw: str) -> list[Part]:
        return [ContentDelta(self._opening + raw)]


class HermesSection(Section):
    """One object, then a closing tag."""

    closing_tag = "</tool_call>"

    def __init__(self, counter: CallCounter, opening: str) -> None:
        super().__init__(counter, opening)
        self._scanner = CallScanner(counter)
        self._behind = ""

    def push(self, text: str) -> list[Part]:
        """Read on."""
        parts: list[Part] = []
        if not self._scanner.is_done:
            parts, text = self._scanner.push(text)
            if self._scanner.is_broken:
                self._end(text)
                return parts if self._scanner.has_call else self._as_content(self._scanner.raw)
        if self._scanner.is_done:
            self._behind += text
            stripped = self._behind.lstrip()
            if stripped.startswith(self.closing_tag):
                self._end(stripped.removeprefix(self.closing_tag))
            elif not self.closing_tag.startswith(stripped):
                self._end(self._behind)
        return parts

    def finish(self) -> list[Part]:
        """A call that was cut off keeps what was given out of it."""
        return [] if self._scanner.is_done or self._scanner.has_call else self._as_content(self._scanner.raw)


class MistralSection(Section):
    """A list of objects, one object, or a name and its arguments."""

    has_short_ids = True

    def __init__(self, counter: CallCounter, opening: str) -> None:
        super().__init__(counter, opening)
        self._text = ""
        """Read, and not understood yet."""
        self._shown = ""
        """Read and understood, while nothing has been given out."""
        self._is_list: bool | None = None
        self._scanner: CallScanner | None = None
        self._arguments: JsonSpan | None = None
        self._index = 0

    def push(self, text: str) -> list[Part]:
        """Read on."""
        self._text += text
        parts: list[Part] = []
        while not self.is_over and self._text:
            num_left = len(self._text)
            if self._arguments is not None:
                parts += self._read_arguments()
            elif self._scanner is not None:
                parts += self._read_object(self._scanner)
            elif self._is_list:
                self._read_between_objects()
            else:
                parts += self._read_opening()
            if len(self._text) == num_left and self._scanner is None and self._arguments is None:
                break  # more text is needed
        return parts

    def finish(self) -> list[Part]:
        """A call that was cut off keeps what was given out of it."""
        if self._counter.count > self._index or self.is_over:
            return []
        raw = self._scanner.raw if self._scanner is not None else ""
        return self._as_content(self._shown + raw + self._text)

    def _read_opening(self) -> list[Part]:
        self._index = self._counter.count
        stripped = self._text.lstrip()
        if not stripped:
            return []
        if stripped[0] in "[{":
            self._is_list = stripped[0] == "["
            if self._is_list:
                self._shown = self._text[: len(self._text) - len(stripped) + 1]
                self._text = stripped[1:]
            else:
                self._scanner = CallScanner(self._counter)
            return []
        return self._read_name()

    def _read_name(self) -> list[Part]:
        match = _NAME.match(self._text)
        behind = self._text[match.end() :] if match else self._text
        if match and behind.startswith(ARGUMENTS_TAG):
            behind = behind.removeprefix(ARGUMENTS_TAG).lstrip()
        elif match and (not behind or ARGUMENTS_TAG.startswith(behind)):
            return []  # it may go on
        if match and not behind:
            return []
        if not match or behind[0] != "{":
            self._end(self._text)
            self._text = ""
            return self._as_content("")
        call = self._counter.start(match[1])
        self._arguments, self._text = JsonSpan(), behind
        return [call]

    def _read_arguments(self) -> list[Part]:
        assert self._arguments is not None
        end = 0
        while end < len(self._text) and not self._arguments.is_over:
            plain_end = self._arguments.plain_end(self._text, end)
            if plain_end == end:
                self._arguments.push(self._text[end])
            end = max(plain_end, end + 1)
        read, self._text = self._text[:end], self._text[end:]
        if self._arguments.is_over:
            self._end(self._text)
            self._text = ""
        return [ToolCallArguments(self._counter.count - 1, read)] if read else []

    def _read_object(self, scanner: CallScanner) -> list[Part]:
        parts, self._text = scanner.push(self._text)
        if scanner.is_broken:
            is_first = self._counter.count == self._index
            if is_first:
                parts = self._as_content(self._shown + scanner.raw)
            elif scanner.raw:
                parts.append(ContentDelta(scanner.raw))
            self._end(self._text)
            self._text = ""
        elif scanner.is_done:
            self._scanner = None
            if not self._is_list:
                self._end(self._text)
                self._text = ""
        return parts

    def _read_between_objects(self) -> None:
        stripped = self._text.lstrip()
        if not stripped:
            return
        if stripped[0] == "]" and self._counter.count > self._index:
            self._end(stripped[1:])
            self._text = ""
        elif stripped[0] == "," and self._counter.count > self._index:
            self._text = stripped[1:]
        else:
            self._scanner = CallScanner(self._counter)


class TaggedCallParser:
    """Content with calls behind an opening tag; an `AnswerParser`."""

    def __init__(self, opening_tag: str, section: type[Section]) -> None:
        self._tag = opening_tag
        self._section_type = section
        self._counter = CallCounter(has_short_ids=section.has_short_ids)
        self._section: Section | None = None
        self._held = ""
        """Text that may still become a tag, or whitespace before one."""
        self._is_behind_call = False

    def push(self, text: str) -> list[Part]:
        """Take in more text; returns what is certain."""
        parts: list[Part] = []
        while True:
            if self._section is not None:
                parts += self._section.push(text)
                if not self._section.is_over:
                    return parts
                text, self._section = self._section.rest, None
                self._is_behind_call = True
            else:
                self._held += text
                at = self._held.find(self._tag)
                if at < 0:
                    return parts + self._content(len(self._held) - self._num_held_back())
                opening_at = len(self._held[:at].rstrip())
                parts += self._content(opening_at)
                end = at - opening_at + len(self._tag)
                opening, text, self._held = self._held[:end], self._held[end:], ""
                self._section = self._section_type(self._counter, opening)

    def finish(self) -> list[Part]:
        """What is left when the answer is over."""
        if self._section is not None:
            return self._section.finish()
        if self._is_behind_call and not self._held.strip():
            return []
        return self._content(len(self._held))

    def _content(self, end: int) -> list[Part]:
        text, self._held = self._held[:end], self._held[end:]
        if not text:
            return []
        self._is_behind_call = False
        return [ContentDelta(text)]

    def _num_held_back(self) -> int:
        """Characters at the end that may belong to a tag or to the whitespace before it."""
        size = partial_tag_length(self._held, self._tag)
        before = self._held[: len(self._held) - size]
        return size + len(before) - len(before.rstrip())
