"""What `LLM` gives back, in vLLM's shapes: a `RequestOutput` for each prompt, a `CompletionOutput` for each answer.

Made by `generate_job.py`. Invariant: `token_ids` are the tokens that the engine made, with the one that ended the
answer, and `logprobs` has one entry for each of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from frontend.generation import Answer
from frontend.token_texts import TokenTexts
from ipc.request_outputs import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token at one position."""

    logprob: float
    """Natural logarithm."""
    rank: int
    """In the whole vocabulary, from 1."""
    decoded_token: str


PositionLogprobs = dict[int, Logprob]
"""The token itself, then the best ones in falling order, by token id."""


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One answer, or in a stream a piece of one."""

    index: int
    """Among the answers to its prompt."""
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    """Sum of the log-probabilities of `token_ids`; None where they were not asked for."""
    logprobs: list[PositionLogprobs] | None
    """One for each of `token_ids`; None where they were not asked for."""
    finish_reason: str | None
    """`stop`, `length`, or `abort` where it was cancelled by an administrator; None for a piece before the last one."""
    stop_reason: str | int | None
    """The stop string or the stop token other than EOS that ended it."""


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """The answers to one prompt."""

    request_id: str
    """Counts the prompts of one `LLM`."""
    prompt: str | None
    """The text, with that of a chat template; None where token ids were given, or where it was cut."""
    prompt_token_ids: list[int]
    prompt_logprobs: list[PositionLogprobs | None] | None
    """One for each token of the prompt, None for the first one; None altogether where they were not asked for."""
    outputs: list[CompletionOutput]
    """`n` answers."""
    finished: bool
    """Always true: `LLM` gives whole answers."""
    num_cached_tokens: int
    """Tokens of the prompt from the prefix cache."""


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """One vector."""

    embedding: list[float]
    """`[embedding_size]`, of length 1 where the model is not made otherwise."""

    @property
    def hidden_size(self) -> int:
        """How many numbers it has."""
        return len(self.embedding)


@dataclass(frozen=True, slots=True)
class EmbeddingRequestOutput:
    """The vector of one text."""

    request_id: str
    outputs: EmbeddingOutput
    prompt_token_ids: list[int]
    finished: bool


def completion_output(
    answer: Answer, text: str, token_ids: list[int], rows: Sequence[TokenLogprobs] | None, texts: TokenTexts
) -> CompletionOutput:
    """One answer, or a piece of it; `rows` are the log-probabilities of `token_ids` where these were asked for."""
    return CompletionOutput(
        index=answer.index,
        text=text,
        token_ids=token_ids,
        cumulative_logprob=None if rows is None else sum(row.logprobs[0] for row in rows),
        logprobs=None if rows is None else [position_logprobs(row, texts) for row in rows],
        finish_reason=None if answer.finish is None else answer.finish.reason,
        stop_reason=None if answer.finish is None else answer.finish.stop_reason,
    )


def position_logprobs(row: TokenLogprobs, texts: TokenTexts) -> PositionLogprobs:
    """The entries of one position; the token itself is there once."""
    entries: PositionLogprobs = {}
    for place, (token_id, logprob) in enumerate(zip(row.token_ids, row.logprobs, strict=True)):
        entries.setdefault(token_id, Logprob(logprob, place or row.rank, texts.text_of(token_id)))
    return entries
