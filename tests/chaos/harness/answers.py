"""An answer in one form, whether it came whole or as a stream, complete or not; and error objects.

Called by `oracle.py`. Invariant: `read_whole` and `read_stream` give equal answers for equal texts, so that one
reference serves both.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from fast_inference.bench.answer import read_events

_ERROR_FIELDS = {"message", "type", "param", "code"}


class MalformedError(Exception):
    """Bytes that the API never sends."""


@dataclass
class Choice:
    """One of the answers to a request."""

    text: str = ""
    tokens: list[str] = field(default_factory=list)
    """Only where log-probabilities were asked for."""
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass
class Answer:
    """Everything of it that must be the same in every run."""

    choices: dict[int, Choice] = field(default_factory=dict)
    usage: tuple[int, int] | None = None
    """Prompt and completion tokens."""
    is_done: bool = False
    """It said that it is complete: `[DONE]`, or a whole body."""
    error: dict[str, Any] | None = None
    """The error object that ended it."""


def read_whole(body: bytes) -> Answer:
    """A body with status 200."""
    answer = Answer(is_done=True)
    try:
        _add(answer, orjson.loads(body), "message")
    except (ValueError, LookupError, TypeError) as error:
        raise MalformedError(f"a body that is no answer: {error!r}") from error
    return answer


def read_stream(body: bytes) -> Answer:
    """The complete events of a stream, whether it is complete or not."""
    answer = Answer()
    for _, data in read_events(body):
        if answer.is_done or answer.error is not None:
            raise MalformedError("an event after the last one")
        if data == b"[DONE]":
            answer.is_done = True
            continue
        try:
            chunk = orjson.loads(data)
            if "error" in chunk:
                answer.error = read_error(data)
            else:
                _add(answer, chunk, "delta")
        except (ValueError, LookupError, TypeError) as error:
            raise MalformedError(f"an event that is no chunk: {error!r}") from error
    return answer


def read_error(body: bytes) -> dict[str, Any]:
    """The error object of an envelope."""
    try:
        error = orjson.loads(body)["error"]
        is_envelope = error.keys() >= _ERROR_FIELDS and isinstance(error["message"], str) and error["message"]
    except (ValueError, LookupError, TypeError, AttributeError) as wrong:
        raise MalformedError(f"no error envelope: {body[:200]!r}") from wrong
    if not is_envelope:
        raise MalformedError(f"no error envelope: {body[:200]!r}")
    return dict(error)


def _add(answer: Answer, chunk: dict[str, Any], message_field: str) -> None:
    if usage := chunk.get("usage"):
        answer.usage = (usage["prompt_tokens"], usage["completion_tokens"])
    for part in chunk["choices"]:
        choice = answer.choices.setdefault(part["index"], Choice())
        choice.text += (part["text"] if "text" in part else part[message_field].get("content")) or ""
        for token, logprob in _logprobs(part.get("logprobs")):
            choice.tokens.append(token)
            choice.logprobs.append(logprob)
        if part["finish_reason"] is not None:
            choice.finish_reason = part["finish_reason"]


def _logprobs(part: dict[str, Any] | None) -> Iterator[tuple[str, float]]:
    if part is None:
        return
    if "tokens" in part:
        yield from zip(part["tokens"], part["token_logprobs"], strict=True)
    else:
        yield from ((item["token"], item["logprob"]) for item in part["content"])
