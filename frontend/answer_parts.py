"""What the text of a chat answer can be made of, and the parser that finds out: the seam for tool calls and reasoning.

`frontend/openai/chat_completions.py` makes a parser for each answer that needs one, and none where the text is the
content. Invariant of a parser: what it gives out for a text does not depend on how the text is cut into pushes.
Next: `frontend/openai/chat_parts.py`, how parts look in an answer.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of the content."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call begins; its arguments follow."""

    index: int
    """Counts the calls of the answer from 0."""
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More of the arguments of a call that has begun."""

    index: int
    text: str


Part = ContentDelta | ReasoningDelta | ToolCallStart | ToolCallArguments


class AnswerParser(Protocol):
    """Divides the text of one answer; both methods are called in order, `finish` once."""

    def push(self, text: str) -> list[Part]:
        """Take in more text; returns what is certain."""

    def finish(self) -> list[Part]:
        """What is left when the answer is over."""
