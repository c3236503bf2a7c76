"""What became known of one request, on its way to a reader: tokens, log-probabilities, its end or its error.

`ipc.session` fills a `RequestOutputs` from the messages of the core, readers empty it. Invariant: deltas merge while
the reader is slow, so nothing is lost and memory is bounded by the request itself. Owns which error a code of the core
becomes. Next: `ipc/session.py`.
"""

import time
from array import array
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from ipc.errors import (
    ContextLengthError,
    EngineUnavailableError,
    FastInferenceError,
    InvalidRequestError,
    ModelNotFoundError,
    QueueFullError,
    RequestFailedError,
    RequestQuarantinedError,
    RequestTimeoutError,
)
from ipc.messages import CORE_RETIRED, Add, Finished, FinishReason, Reject, Started, Welcome

_UNAVAILABLE_CODES = frozenset({"engine_unavailable", "draining", CORE_RETIRED, "queue_timeout", "grammar_queue_full"})


class TokenLogprobs(NamedTuple):
    """Log-probabilities at one position of a prompt or an answer."""

    rank: int
    """Rank of the token itself in the whole vocabulary, from 1."""
    token_ids: tuple[int, ...]
    """The token itself, then the best tokens in falling order."""
    logprobs: tuple[float, ...]
    """Natural logarithms, one for each of `token_ids`."""


@dataclass(slots=True)
class Output:
    """What became known of a request since the last look."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    """One for each of `token_ids` where the request asked for them."""
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    """With the first token, where the request asked for them: of each token of the prompt but the first."""
    finished: Finished | None = None
    embedding: list[float] | None = None
    num_cached_tokens: int = 0
    """Prompt tokens from the prefix cache, as far as known; set in every output after the first token."""

    def __bool__(self) -> bool:
        return bool(self.token_ids) or self.finished is not None

    def extend(self, later: "Output") -> None:
        """Append what came after."""
        self.token_ids += later.token_ids
        self.logprobs += later.logprobs
        self.prompt_logprobs += later.prompt_logprobs
        self.finished, self.embedding = later.finished, later.embedding
        self.num_cached_tokens = later.num_cached_tokens


@dataclass(frozen=True, slots=True)
class PhaseTimes:
    """How long the phases of a request took, in microseconds; what no core worked on, because it was lost, counts."""

    queue_us: int
    """From the beginning until it was first scheduled, by the core that gave the first token."""
    first_token_us: int
    """From the beginning to the first token; to the end where there was none."""
    total_us: int
    """From the beginning to the end."""


class RequestOutputs:
    """Outputs of one request on their way to a reader; deltas merge while the reader is slow, so memory is bounded."""

    def __init__(self, add: Add) -> None:
        self.add = add
        """As the core heard it first."""
        self.request_id = add.request_id
        self.emitted_token_ids = array("i")
        """All that came so far; with the prompt it is what another core goes on from."""
        self.core: Welcome | None = None
        """What the core said about itself that the request was last sent to; None before it is sent."""
        self.sent_at = time.monotonic()
        """When it was first sent."""
        self.num_cores = 0
        """How many cores it was sent to."""
        self.num_refusals = 0
        """How many of them had no room for it."""
        self.core_names: list[str] = []
        """Names of these cores; one that came back to life is named once."""
        self._lost_us = 0
        """From when it was first sent until it was sent to the core that gave the first token."""
        self._started: Started | None = None
        self._first_token_at = 0.0
        self._pending = Output()
        self._error: FastInferenceError | None = None
        self.is_terminated = False
        """True once the terminal output has arrived (it may still be unread)."""

    @property
    def is_started(self) -> bool:
        """True once a token has come."""
        return bool(self.emitted_token_ids)

    @property
    def timeout_ms(self) -> int:
        """Time that it has from when it was first sent: its own or the core's, whichever is less; 0 for any."""
        limits_ms = (self.add.timeout_ms, self.core.request_timeout_ms if self.core is not None else 0)
        return min((limit_ms for limit_ms in limits_ms if limit_ms), default=0)

    def next_add(self) -> Add:
        """What the next core is to hear: the request as it was, or what is left of it."""
        if not self.num_cores:
            return self.add
        token_ids = self.add.prompt_token_ids + self.emitted_token_ids
        num_resumed_tokens = self.add.num_resumed_tokens + len(self.emitted_token_ids)
        timeout_ms = self.timeout_ms
        if timeout_ms:
            timeout_ms = max(1, timeout_ms - int((time.monotonic() - self.sent_at) * 1000))
        return replace(
            self.add, prompt_token_ids=token_ids, num_resumed_tokens=num_resumed_tokens, timeout_ms=timeout_ms
        )

    def on_sent(self, core: Welcome | None, name: str = "") -> None:
        """It was handed to this core."""
        self.core = core
        if name and name not in self.core_names[-1:]:
            self.core_names.append(name)
        self.num_cores += 1
        if self.num_cores > 1 and not self.is_started:
            self._lost_us = _microseconds(time.monotonic() - self.sent_at)

    def start(self, started: Started) -> None:
        """Record what comes with the first token; a later core knows less of the prompt than the first one did."""
        if not self.is_started:
            self._pending.num_cached_tokens = started.num_cached_tokens
            self._started, self._first_token_at = started, time.monotonic()

    def phase_times(self, finished: Finished | None) -> PhaseTimes:
        """How long its phases took, at its end; `finished` is None where its reader ended it.

        One core's own times, where it saw all of it. Else what follows the first token is measured here.
        """
        if finished is not None and self.num_cores <= 1:
            return PhaseTimes(finished.queue_time_us, finished.first_token_us, finished.total_time_us)
        if self._started is not None:
            first_token_us = self._lost_us + self._started.first_token_us
            decode_us = _microseconds(time.monotonic() - self._first_token_at)
            return PhaseTimes(self._lost_us + self._started.queue_time_us, first_token_us, first_token_us + decode_us)
        total_us = _microseconds(time.monotonic() - self.sent_at)
        queue_us = total_us if finished is None else self._lost_us + finished.queue_time_us
        return PhaseTimes(queue_us, total_us, total_us)

    def push_token(self, token_id: int) -> None:
        """Append one token."""
        self._pending.token_ids.append(token_id)
        self.emitted_token_ids.append(token_id)

    def push_logprobs(self, rows: list[TokenLogprobs], num_prompt_rows: int) -> None:
        """Append what a STEP brought: rows of the prompt first, then one for each of its tokens."""
        self._pending.prompt_logprobs += rows[:num_prompt_rows]
        self._pending.logprobs += rows[num_prompt_rows:]

    def finish(self, finished: Finished, embedding: list[float] | None = None) -> None:
        """Record the terminal output."""
        self.is_terminated = True
        if finished.reason is FinishReason.ERROR:
            self._error = error_of_finished(finished)
        else:
            self._pending.finished = finished
            self._pending.embedding = embedding

    def fail(self, error: FastInferenceError) -> None:
        """Record a terminal error; the reader gets it after what arrived before."""
        self.is_terminated = True
        self._error = error

    def notify(self) -> None:
        """Called after each batch of changes; an asynchronous reader overrides it to wake up."""

    def try_take(self) -> Output | None:
        """What is unread, or None if there is nothing yet.

        Raises:
            FastInferenceError: the request ended in an error, and everything before it has been read.
        """
        if self._pending:
            taken, self._pending = self._pending, Output(num_cached_tokens=self._pending.num_cached_tokens)
            return taken
        if self._error is not None:
            raise self._error
        return None


def error_of_finished(finished: Finished) -> FastInferenceError:
    """What the reader of a request that ended in an error gets."""
    if finished.error_code in _UNAVAILABLE_CODES:
        return EngineUnavailableError(finished.error_message, code=finished.error_code)
    if finished.error_code == RequestTimeoutError.code:
        return RequestTimeoutError(finished.error_message)
    if finished.error_code == "invalid_grammar":
        return InvalidRequestError(finished.error_message, param="structured_outputs", code=finished.error_code)
    return RequestFailedError(finished.error_message, code=finished.error_code)


def error_of_reject(reject: Reject) -> FastInferenceError:
    """What the reader of a request that was not accepted gets."""
    if reject.code == QueueFullError.code:
        return QueueFullError(reject.message, retry_after_s=reject.retry_after_ms / 1000)
    if reject.code == ContextLengthError.code:
        return ContextLengthError(reject.message, param=reject.param or None)
    if reject.code == ModelNotFoundError.code:
        return ModelNotFoundError(reject.message, param=reject.param or None)
    if reject.code in _UNAVAILABLE_CODES:
        return EngineUnavailableError(reject.message, code=reject.code)
    if reject.code == RequestQuarantinedError.code:
        return RequestQuarantinedError(reject.message)
    if reject.code == "request_lost":
        return RequestFailedError(reject.message, code=reject.code)
    return InvalidRequestError(reject.message, param=reject.param or None, code=reject.code)


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)
