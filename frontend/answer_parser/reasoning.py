"""Reasoning before the answer: `<think>…</think>`, and how many tokens it takes.

`ReasoningParser` wraps the parser of what follows. Invariant: only the first block is reasoning; whitespace at its
edges and behind it is dropped. Whether an answer begins inside of the block depends on the chat template
(`formats.py`).
"""

from frontend.answer_parser.partial_tag import partial_tag_length
from frontend.answer_parts import AnswerParser, ContentDelta, Part, ReasoningDelta

THINK_TAG, END_OF_THINK_TAG = "<think>", "</think>"


class ReasoningParser:
    """An `AnswerParser` around another; without one, what follows the reasoning is content."""

    def __init__(self, inner: AnswerParser | None, *, starts_inside: bool, is_shown: bool = True) -> None:
        """`starts_inside`: the prompt ends with the opening tag. `is_shown`: False leaves the reasoning out."""
        self._inner = inner
        self._is_shown = is_shown
        self._is_inside = starts_inside
        self._is_behind = False
        self._has_text = False
        """The part that is being read has anything but whitespace so far."""
        self._held = ""

    @property
    def is_inside(self) -> bool:
        """What comes next is reasoning, as far as is known."""
        return self._is_inside

    @property
    def is_behind(self) -> bool:
        """There is no reasoning, or no more of it."""
        return self._is_behind

    def push(self, text: str) -> list[Part]:
        """Take in more text; returns what is certain."""
        self._held += text
        parts: list[Part] = []
        if not self._is_inside and not self._is_behind:
            self._begin()
        if self._is_inside:
            parts += self._read_reasoning()
        if self._is_behind:
            parts += self._read_answer()
        return parts

    def finish(self) -> list[Part]:
        """What is left when the answer is over."""
        parts: list[Part] = []
        if self._is_inside:
            parts += self._reasoning(self._held.rstrip())
        elif self._held and not self._is_behind:
            parts += self._pass_on(self._held)
        return parts + (self._inner.finish() if self._inner is not None else [])

    def _begin(self) -> None:
        stripped = self._held.lstrip()
        if stripped.startswith(THINK_TAG):
            self._is_inside = True
            self._held = stripped.removeprefix(THINK_TAG)
        elif not THINK_TAG.startswith(stripped):
            self._is_behind = self._has_text = True  # its whitespace is part of the content

    def _read_reasoning(self) -> list[Part]:
        at = self._held.find(END_OF_THINK_TAG)
        if at < 0:
            size = partial_tag_length(self._held, END_OF_THINK_TAG)
            end = len(self._held[: len(self._held) - size].rstrip())
            text, self._held = self._held[:end], self._held[end:]
            return self._reasoning(text)
        text, self._held = self._held[:at].rstrip(), self._held[at + len(END_OF_THINK_TAG) :]
        self._is_inside, self._is_behind = False, True
        parts = self._reasoning(text)
        self._has_text = False
        return parts

    def _reasoning(self, text: str) -> list[Part]:
        if not self._has_text:
            text = text.lstrip()
        if not text:
            return []
        self._has_text = True
        return [ReasoningDelta(text)] if self._is_shown else []

    def _read_answer(self) -> list[Part]:
        text, self._held = self._held, ""
        if not self._has_text:
            text = text.lstrip()
        if not text:
            return []
        self._has_text = True
        return self._pass_on(text)

    def _pass_on(self, text: str) -> list[Part]:
        return self._inner.push(text) if self._inner is not None else [ContentDelta(text)]


class ReasoningCounter:
    """Counts the tokens of an answer up to the end of its reasoning, tags included; 0 where there is none."""

    def __init__(self, *, starts_inside: bool) -> None:
        """`starts_inside`: the prompt ends with the opening tag."""
        self._parser = ReasoningParser(None, starts_inside=starts_inside)
        self.num_tokens = 0

    def push(self, text: str, num_tokens: int) -> None:
        """Take in the text of one more token, with the number of tokens so far."""
        if self._parser.is_behind:
            return
        was_inside = self._parser.is_inside
        self._parser.push(text)
        if was_inside or self._parser.is_inside:
            self.num_tokens = num_tokens
