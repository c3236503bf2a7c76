"""One client's side of the conversation with the core, without any I/O: what arrived and what it means.

Owns the table of live requests and what is known of the core. `ipc.core_link` (async) and `ipc.sync_client` own the
socket, feed messages to `Session.receive` and send what the session's users ask for.
Invariant: a request leaves the table exactly once: with its `Finished`, with an error, or as an orphan, which this core
will not answer and `ipc.recovery` may bring to another.
"""

import logging
import os
import time
from array import array
from collections import defaultdict
from collections.abc import Callable

from ipc import codec
from ipc.counted_warning import CountedWarning
from ipc.endpoints import CoreAddress, RemoteCore
from ipc.errors import EngineUnavailableError, FastInferenceError, ProtocolError, RequestFailedError
from ipc.messages import (
    CORE_RETIRED,
    Bye,
    ClientMessage,
    ClientRole,
    CoreBeat,
    CoreMessage,
    CoreState,
    Dying,
    Finished,
    Hello,
    Live,
    Load,
    Reconcile,
    Reject,
    RequestId,
    Step,
    Welcome,
)
from ipc.process import pid_namespace, start_ticks
from ipc.request_outputs import RequestOutputs, TokenLogprobs, error_of_reject

log = logging.getLogger(__name__)

_WELCOMED_STATES = frozenset({CoreState.READY, CoreState.DRAINING, CoreState.RETIRING})
_TRANSIENT_CODES = frozenset({"queue_full", "engine_unavailable"})


def own_hello(client_name: str, role: ClientRole, address: CoreAddress) -> Hello:
    """The HELLO of this process; a core on another host is told no pid, which would mean nothing there."""
    if isinstance(address, RemoteCore):
        return Hello(client_name, role, 0, 0, 0)
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
        self.step_allowance_s = 0.0
        self._dropped = CountedWarning(log, "dropped a message")
        self.requests: dict[RequestId, RequestOutputs] = {}
        self.orphans: list[RequestOutputs] = []
        """Requests that the core will not answer; to be taken by whoever owns the socket."""
        self.loss = EngineUnavailableError("The engine stopped.")
        """What became of the core, for orphans that nobody takes over."""
        self.pass_on: Callable[[RequestOutputs], bool] | None = None
        """Asked to bring a new request that the core has no room for to another one; False if none takes it."""
        self.lost_request_ids: list[int] = []
        """Requests that ended here but may run on in the core: to be aborted by whoever owns the socket."""
        self._last_sequence = 0
        self._heard_at = time.monotonic()

    @property
    def is_ready(self) -> bool:
        """True while a core that accepts requests is known."""
        return self.state is CoreState.READY and self.welcome is not None

    @property
    def num_bad_messages(self) -> int:
        """Messages that were dropped."""
        return self._dropped.num

    @property
    def is_welcomed(self) -> bool:
        """True while the core knows this client."""
        return self.state in _WELCOMED_STATES

    @property
    def epoch(self) -> int:
        """Epoch for outgoing messages; 0 before the first welcome."""
        return self.welcome.epoch if self.welcome is not None else 0

    @property
    def beat_age_s(self) -> float:
        """Seconds since the core was last heard."""
        return time.monotonic() - self._heard_at

    def receive(self, data: bytes) -> CoreMessage | None:
        """Take in one message; returns it for what is the caller's to do, None if it was dropped."""
        try:
            message = codec.decode_core_message(data)
            epoch = codec.decode_header(data).epoch
        except ProtocolError as error:
            self._dropped.add(error.message)
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
            self._on_reject(message)
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

    def take_orphans(self) -> list[RequestOutputs]:
        """The requests that this core will not answer, once each."""
        orphans, self.orphans = self.orphans, []
        return orphans

    def lose(
        self,
        reason: str,
        *,
        message: str = "The engine stopped; it is being restarted.",
        code: str = "engine_restarted",
    ) -> None:
        """The core is gone, or does not know this client: every live request is an orphan."""
        if self.state is not None:
            log.warning("lost the core: %s", reason)
        self.state = None
        self.detail = reason
        self.loss = EngineUnavailableError(message, code=code)
        self.orphans += self.requests.values()
        self.requests.clear()

    def suspend(self, reason: str) -> None:
        """The connection to the core has ended: nothing counts before it welcomes this client anew. Until then its
        requests stay, and become orphans when it does, as it has given them up.
        """
        self.state = None
        self.detail = reason

    def _on_bye(self, bye: Bye) -> None:
        reason = f"the core said good-bye: {bye.reason} {bye.detail}".strip()
        if bye.reason == "drained":
            self.lose(reason, message="The engine stopped.", code="engine_stopped")
        else:
            self._lose_connection(reason)

    def _lose_connection(self, reason: str) -> None:
        self.lose(reason, message="The connection to the engine was interrupted.", code="engine_disconnected")

    def _on_reject(self, reject: Reject) -> None:
        """A request that a core had is not refused for what may change, a new one only where no other core has room."""
        request = self.requests.get(reject.request_id)
        if request is None:
            return  # aborted by this side meanwhile
        is_transient = reject.code in _TRANSIENT_CODES
        request.num_refusals += is_transient
        if reject.code == CORE_RETIRED or (is_transient and request.num_refusals < request.num_cores):
            return self._orphan(reject.request_id)
        if is_transient and self.pass_on is not None:
            del self.requests[reject.request_id]
            if self.pass_on(request):
                return
            self.requests[reject.request_id] = request
        self._end(reject.request_id, error=error_of_reject(reject))

    def _orphan(self, request_id: RequestId) -> None:
        request = self.requests.pop(request_id, None)
        if request is not None:
            self.orphans.append(request)
            self.loss = EngineUnavailableError("The engine hands this request to another one.", code=CORE_RETIRED)

    def fail_all(self, error: FastInferenceError) -> None:
        """End every live request with this error."""
        lost = list(self.requests.values())
        self.requests.clear()
        for request in lost:
            request.fail(error)
            request.notify()

    def _on_welcome(self, welcome: Welcome) -> None:
        if self.is_welcomed and self.epoch == welcome.epoch:
            return  # the answer to a repeated HELLO
        if (self.is_welcomed or self.requests) and self.epoch not in (0, welcome.epoch):
            self.lose("another core answers")
        elif self.requests:  # the same core, after `suspend`
            self._lose_connection(self.detail)
        self.welcome = welcome
        self.state = CoreState.READY
        self.detail = ""
        self._last_sequence = 0

    def _on_beat(self, beat: CoreBeat, epoch: int) -> None:
        self.load = beat.load
        self.detail = beat.detail
        self.step_age_s = beat.step_age_ms / 1000
        self.step_allowance_s = beat.step_allowance_ms / 1000
        if (self.is_welcomed and epoch == self.epoch) or beat.state is CoreState.LOADING:
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
            if finished.error_code == CORE_RETIRED:
                self._orphan(finished.request_id)
            else:
                self._end(finished.request_id, finished=finished, embedding=embeddings.get(finished.request_id))

    def _take_logprobs(self, step: Step) -> None:
        token_ids, logprobs = tuple(step.logprob_token_ids), tuple(step.logprobs)  # slices of a tuple are cheap
        rows: dict[int, list[TokenLogprobs]] = defaultdict(list)
        start = 0
        columns = zip(step.logprob_request_ids, step.logprob_counts, step.logprob_ranks, strict=False)
        for request_id, count, rank in columns:
            end = start + count
            rows[request_id].append(TokenLogprobs(rank, token_ids[start:end], logprobs[start:end]))
            start = end
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
