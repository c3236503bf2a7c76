"""How the answers of one request look: a writer per request, and the events of a stream that it writes.

`AnswerWriter` is what an endpoint defines; `AnswerEvents` puts its choices into chunks. Invariant (the law of
streaming): what the chunks of a choice say, put together, is what its whole answer says. A chunk with nothing but
text does not go through the writer: `ChunkEncoder.text` has its bytes ready. Next: `streaming.py`, the bytes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from frontend.generation import Answer
from frontend.openai.protocol import GenerationBody
from frontend.openai.streaming import DONE, ChunkEncoder
from frontend.openai.timings import timings_of
from frontend.openai.usage import usage_of
from frontend.output_processor import Finish, TextDelta


class AnswerWriter(ABC):
    """Writes the answers of one request."""

    text_path: ClassVar[tuple[str, ...]]
    """Where a streamed choice keeps its text."""
    is_plain: bool
    """True where chunks have nothing but text."""

    @abstractmethod
    def first_choice(self, answers: Sequence[Answer], index: int) -> dict[str, Any] | None:
        """The choice that opens a stream, or None where there is nothing to say before the text."""

    @abstractmethod
    def delta_choices(self, index: int, delta: TextDelta) -> list[dict[str, Any]]:
        """The choices of the chunks for what was added to an answer, without its end."""

    @abstractmethod
    def last_choice(self, index: int, finish: Finish) -> dict[str, Any]:
        """The choice of the chunk that ends an answer."""

    @abstractmethod
    def whole_choices(self, answers: Sequence[Answer]) -> list[dict[str, Any]]:
        """The choices of a whole answer."""

    def extra_fields(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """What stands beside the choices of a whole answer, and in the first chunk of a stream."""
        return {}


class AnswerEvents:
    """The events of one stream."""

    def __init__(
        self,
        writer: AnswerWriter,
        answers: Sequence[Answer],
        body: GenerationBody,
        head: dict[str, Any],
        *,
        has_timings: bool = False,
    ) -> None:
        """`head` has the fields that all chunks share; `has_timings`: the last one says how long it all took."""
        self._writer = writer
        self._answers = answers
        self._num_open = len(answers)
        self._has_timings = has_timings
        self._answers_per_prompt = body.answers_per_prompt
        options = body.stream_options
        self._has_usage = options is not None and options.include_usage
        self._is_continuous = options is not None and options.continuous_usage_stats
        self._encoder = ChunkEncoder(head, writer.text_path, has_usage=self._has_usage or self._is_continuous)

    def begin(self) -> bytes:
        """What comes before any text."""
        extra = self._writer.extra_fields(self._answers)
        events = b""
        for answer in self._answers:
            choice = self._writer.first_choice(self._answers, answer.index)
            if choice is not None:
                events += self._encoder.choice(answer.index, choice, extra={} if events else extra)
        return events

    def of(self, index: int, delta: TextDelta) -> bytes:
        """What one delta of an answer becomes; nothing where it has nothing to show."""
        usage = usage_of(self._answers, self._answers_per_prompt) if self._is_continuous else None
        if self._writer.is_plain:
            events = self._encoder.text(index, delta.text, usage) if delta.text else b""
        else:
            choices = self._writer.delta_choices(index, delta)
            events = b"".join(self._encoder.choice(index, choice, usage) for choice in choices)
        if delta.finish is not None:
            self._num_open -= 1
            extra = {} if self._num_open or self._has_usage else self._timings()
            events += self._encoder.choice(index, self._writer.last_choice(index, delta.finish), usage, extra=extra)
        return events

    def end(self) -> bytes:
        """What comes after the last answer."""
        if not self._has_usage:
            return DONE
        usage = usage_of(self._answers, self._answers_per_prompt)
        return self._encoder.usage(usage, extra=self._timings()) + DONE

    def _timings(self) -> dict[str, Any]:
        return {"timings": timings_of(self._answers, self._answers_per_prompt)} if self._has_timings else {}


def choices_of(writer: AnswerWriter, index: int, delta: TextDelta) -> list[dict[str, Any]]:
    """The choices of all chunks for one delta of an answer, as `AnswerEvents` would write them."""
    choices = writer.delta_choices(index, delta)
    if delta.finish is not None:
        choices.append(writer.last_choice(index, delta.finish))
    return choices


def finish_fields(finish: Finish | None) -> dict[str, Any]:
    """The end of a choice."""
    assert finish is not None
    return {"finish_reason": finish.reason, "stop_reason": finish.stop_reason}
