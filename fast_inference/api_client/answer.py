"""A streamed answer as a person sees it: its text, what the model thought before, and how fast it came."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fast_inference.api_client.connection import ApiError


@dataclass(slots=True)
class StreamedAnswer:
    """What has come so far. Times are those of the clock, in seconds."""

    clock: Callable[[], float] = time.perf_counter
    text: str = ""
    finish_reason: str = ""
    sent_at: float = field(init=False)
    first_at: float | None = None
    last_at: float = 0.0
    num_chunks: int = 0
    usage: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sent_at = self.clock()

    def pieces(self, chunks: Iterator[dict[str, Any]]) -> Iterator[tuple[str, bool]]:
        """Take in the chunks of a chat or a completion; each piece of text, and whether it is a thought.

        Of several answers to one request only the first is looked at.

        Raises:
            ApiError: as `chunks` does, or where they are not what the API promises.
        """
        for chunk in chunks:
            try:
                self.usage = chunk.get("usage") or self.usage
                pieces = [piece for choice in chunk.get("choices") or () for piece in self._take(choice)]
            except (AttributeError, TypeError) as error:
                raise ApiError("the server's answer is no stream of completions") from error
            yield from pieces

    @property
    def num_tokens(self) -> int:
        """As the server has counted; a chunk is taken for a token until it has."""
        return int(self.usage.get("completion_tokens") or self.num_chunks)

    @property
    def ttft_s(self) -> float | None:
        """Time to the first token; None while there is none."""
        return None if self.first_at is None else self.first_at - self.sent_at

    @property
    def tokens_per_second(self) -> float | None:
        """After the first token; None for fewer than two tokens."""
        if self.first_at is None or self.num_tokens < 2 or self.last_at <= self.first_at:
            return None
        return (self.num_tokens - 1) / (self.last_at - self.first_at)

    def describe(self) -> str:
        """One line of figures."""
        parts = [f"{self.num_tokens} token{'s' if self.num_tokens != 1 else ''}"]
        if self.tokens_per_second is not None:
            parts.append(f"{self.tokens_per_second:,.1f} tok/s")
        if self.ttft_s is not None:
            parts.append(f"first after {self.ttft_s * 1000:,.0f} ms")
        cached = (self.usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        if prompt := self.usage.get("prompt_tokens"):
            parts.append(f"prompt {prompt}" + (f", {cached} of it cached" if cached else ""))
        if self.finish_reason == "length":
            parts.append("cut off at the limit of tokens")
        return " · ".join(parts)

    def _take(self, choice: dict[str, Any]) -> list[tuple[str, bool]]:
        if choice.get("index"):
            return []
        delta = choice.get("delta") or choice
        thought: str = delta.get("reasoning_content") or delta.get("reasoning") or ""
        said: str = delta.get("content") or delta.get("text") or ""
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if thought or said:
            self._note()
        self.text += said
        return [(piece, is_thought) for piece, is_thought in ((thought, True), (said, False)) if piece]

    def _note(self) -> None:
        self.last_at = self.clock()
        self.num_chunks += 1
        if self.first_at is None:
            self.first_at = self.last_at
