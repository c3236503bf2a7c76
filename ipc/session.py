"""One client's side of the conversation with the core, without any I/O: what arrived and what it means.

Owns the table of live requests and what is known of the core. `ipc.client` (async) and `ipc.sync_client` own the
socket, feed frames to `Session.receive` and send what the session's users ask for.
Invariant: a request leaves the table exactly once, with its `Finished` or with an error.
"""

import logging
import os
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from ipc import codec
from ipc.errors import (
    ContextLengthError,
    EngineUnavailableError,
    FastInferenceError,
    InvalidRequestError,
    ProtocolError,
    QueueFullError,
    RequestFailedError,
    RequestTimeoutError,
)
from ipc.messages import (
    Bye,
    ClientMessage,
    ClientRole,
    CoreBeat,
    CoreMessage,
    CoreState,
    Dying,
    Finished,
    FinishReason,
    Hello,
    Live,
    Load,
    Reconcile,
    Reject,
    RequestId,
    Started,
    Step,
    Welcome,
)
from ipc.process import pid_namespace, start_ticks

log = logging.getLogger(__name__)

_UNAVAILABLE_CODES = frozenset({"engine_unavailable", "draining", "queue_timeout"})


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
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


class RequestOutputs:
    """Outputs of one request on their way to a reader; deltas merge while the reader is slow, so memory is bounded."""

    def __init__(self, request_id: RequestId) -> None:
        self.request_id = request_id
        self._pending = Output()
        self._error: FastInferenceError | None = None
        self.is_terminated = False
        """True once the terminal output has arrived (it may still be unread)."""

    def start(self, started: Started) -> None:
        """Record what comes with the first token."""
        self._pending.num_cached_tokens = started.num_cached_tokens

    def push_token(self, token_id: int) -> None:
        """Append one token."""
        self._pending.token_ids.append(token_id)

    def push_logprobs(self, rows: list[TokenLogprobs], num_prompt_rows: int) -> None:
        """Append what a STEP brought: rows of the prompt first, then one for each of its tokens."""
        self._pending.prompt_logprobs += rows[:num_prompt_rows]
        self._pending.logprobs += rows[num_prompt_rows:]

    def finish(self, finished: Finished, embedding: list[float] | None = None) -> None:
        """Record the terminal output."""
        self.is_terminated = True
        if finished.reason is FinishReason.ERROR:
            self._error = _error_of_finished(finished)
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


def _error_of_finished(finished: Finished) -> FastInferenceError:
    if finished.error_code in _UNAVAILABLE_CODES:
        return EngineUnavailableError(finished.error_message, code=finished.error_code)
    if finished.error_code == RequestTimeoutError.code:
        return RequestTimeoutError(finished.error_message)
    if finished.error_code == "invalid_grammar":
        return InvalidRequestError(finished.error_message, param="structured_outputs", code=finished.error_code)
    return RequestFailedError(finished.error_message, code=finished.error_code)


def _error_of_reject(reject: Reject) -> FastInferenceError:
    if reject.code == QueueFullError.code:
        return QueueFullError(reject.message, retry_after_s=reject.retry_after_ms / 1000)
    if reject.code == ContextLengthError.code:
        return ContextLengthError(reject.message, param=reject.param or None)
    if reject.code in _UNAVAILABLE_CODES:
        return EngineUnavailableError(reject.message, code=reject.code)
    return InvalidRequestError(reject.message, param=reject.param or None, code=reject.code)


def own_hello(client_name: str, role: ClientRole) -> Hello:
    """The HELLO of this process."""
    return Hello(client_name, role, os.getpid(), start_ticks(os.getpid()), pid_namespace())


class Session:
    """The state of one conversation."""

    def __init__(self) -> None:
        self.welcome: Welcome | None = None
        """What the core said when it last welcomed this client; kept after the core is lost."""
        self.state: CoreState | None = None
        """None: no living core is known."""
        self.load = Load()
        self.detail = ""
        self.step_age_s = 0.0
        self.num_bad_messages = 0
        self.requests: dict[RequestId, RequestOutputs] = {}
        self.lost_request_ids: list[int] = []
        """Requests that ended here but may run on in the core: to be aborted by whoever owns the socket."""
        self._last_request_id = 0
        self._last_sequence = 0
        self._heard_at = time.monotonic()

    @property
    def is_ready(self) -> bool:
        """True while a core that accepts requests is known."""
        return self.state is CoreState.READY and self.welcome is not None

    @property
    def epoch(self) -> int:
        """Epoch for outgoing frames; 0 before the first welcome."""
        return self.welcome.epoch if self.welcome is not None else 0

    @property
    def beat_age_s(self) -> float:
        """Seconds since the core was last heard."""
        return time.monotonic() - self._heard_at

    def next_request_id(self) -> RequestId:
        """A request id that this process has not used."""
        self._last_request_id += 1
        return RequestId(self._last_request_id)

    def receive(self, frames: Sequence[bytes]) -> CoreMessage | None:
        """Take in one message; returns it for what is the caller's to do, None if it was dropped."""
        try:
            message = codec.decode_core_message(frames)
            epoch = codec.decode_header(frames).epoch
        except ProtocolError as error:
            self.num_bad_messages += 1
            log.warning("dropped a message: %s", error.message)
            return None
        if isinstance(message, Welcome):
            self._on_welcome(message)
        elif isinstance(message, CoreBeat):
            self._on_beat(message, epoch)
        elif isinstance(message, Bye):
            self._on_bye(message)
        elif epoch != self.epoch or self.state is None:
            return None  # from an earlier life of the core
        elif isinstance(message, Step):
            self._on_step(message)
        elif isinstance(message, Reject):
            self._end(message.request_id, error=_error_of_reject(message))
        elif isinstance(message, Dying):
            log.error("the core is dying: %s", message.reason)
            self.state = CoreState.DYING
        self._heard_at = time.monotonic()
        return message

    def answers_to(self, message: CoreMessage | None) -> list[ClientMessage]:
        """What a client says to a message that it took in; to be sent at once, and dropped if that is not possible."""
        if isinstance(message, Reconcile):
            return [Live(message.nonce, array("Q", self.requests))]
        if isinstance(message, Bye):
            return [Bye("seen")]
        return []

    def lose(
        self,
        reason: str,
        *,
        message: str = "The engine stopped; it is being restarted.",
        code: str = "engine_restarted",
    ) -> None:
        """The core is gone, or does not know this client: every live request ends in `EngineUnavailableError`."""
        if self.state is not None:
            log.warning("lost the core: %s", reason)
        self.state = None
        self.detail = reason
        self.fail_all(EngineUnavailableError(message, code=code))

    def _on_bye(self, bye: Bye) -> None:
        reason = f"the core said good-bye: {bye.reason} {bye.detail}".strip()
        if bye.reason == "drained":
            self.lose(reason, message="The engine stopped.", code="engine_stopped")
        else:
            self.lose(reason, message="The connection to the engine was interrupted.", code="engine_disconnected")

    def fail_all(self, error: FastInferenceError) -> None:
        """End every live request with this error."""
        lost = list(self.requests.values())
        self.requests.clear()
        for request in lost:
            request.fail(error)
            request.notify()

    def _on_welcome(self, welcome: Welcome) -> None:
        if self.is_ready and self.epoch == welcome.epoch:
            return  # the answer to a repeated HELLO
        if self.state is not None and self.epoch not in (0, welcome.epoch):
            self.lose("another core answers")
        self.welcome = welcome
        self.state = CoreState.READY
        self.detail = ""
        self._last_sequence = 0

    def _on_beat(self, beat: CoreBeat, epoch: int) -> None:
        self.load = beat.load
        self.detail = beat.detail
        self.step_age_s = beat.step_age_ms / 1000
        is_welcomed = self.state in (CoreState.READY, CoreState.DRAINING) and epoch == self.epoch
        if is_welcomed or beat.state is CoreState.LOADING:
            self.state = beat.state

    def _on_step(self, step: Step) -> None:
        self.load = step.load
        if step.sequence != self._last_sequence + 1:
            log.error("STEP %d after %d: outputs were lost", step.sequence, self._last_sequence)
            self.lost_request_ids += self.requests
            self.fail_all(RequestFailedError("Outputs of this request were lost.", code="stream_gap"))
        self._last_sequence = step.sequence
        for started in step.started:
            if (request := self.requests.get(started.request_id)) is not None:
                request.start(started)
        touched = set()
        for request_id, token_id in zip(step.request_ids, step.token_ids, strict=False):
            request = self.requests.get(RequestId(request_id))
            if request is not None:
                request.push_token(token_id)
                touched.add(request)
        embeddings = self._embeddings_of(step)
        if step.logprob_request_ids:
            self._take_logprobs(step)
        for request in touched:
            request.notify()
        for finished in step.finished:
            self._end(finished.request_id, finished=finished, embedding=embeddings.get(finished.request_id))

    def _take_logprobs(self, step: Step) -> None:
        rows: dict[int, list[TokenLogprobs]] = {}
        start = 0
        columns = zip(step.logprob_request_ids, step.logprob_counts, step.logprob_ranks, strict=False)
        for request_id, count, rank in columns:
            token_ids, logprobs = step.logprob_token_ids[start : start + count], step.logprobs[start : start + count]
            rows.setdefault(request_id, []).append(TokenLogprobs(rank, tuple(token_ids), tuple(logprobs)))
            start += count
        num_prompt_rows = {started.request_id: started.num_prompt_logprobs for started in step.started}
        for request_id, of_request in rows.items():
            if (request := self.requests.get(RequestId(request_id))) is not None:
                request.push_logprobs(of_request, num_prompt_rows.get(RequestId(request_id), 0))

    def _embeddings_of(self, step: Step) -> dict[int, list[float]]:
        if not step.embedding_request_ids:
            return {}
        size = len(step.embeddings) // len(step.embedding_request_ids)
        return {
            request_id: step.embeddings[row * size : (row + 1) * size].tolist()
            for row, request_id in enumerate(step.embedding_request_ids)
        }

    def _end(
        self,
        request_id: RequestId,
        *,
        finished: Finished | None = None,
        embedding: list[float] | None = None,
        error: FastInferenceError | None = None,
    ) -> None:
        request = self.requests.pop(request_id, None)
        if request is None:
            return  # aborted by this side meanwhile
        if finished is not None:
            request.finish(finished, embedding)
        elif error is not None:
            request.fail(error)
        request.notify()
