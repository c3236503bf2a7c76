"""Requests that have lost their core, until another one takes them or their time is over.

Owned by `ipc.client.EngineClient`, which sends what `take_for` gives. A request that never gave a token is simply sent
again; one that did goes on behind what it has emitted, on a core with the same model, since the draw of a token depends
on its seed and position alone. Pure bookkeeping: no socket, no task.
Invariant: a request that is held leaves exactly once: to a core, with an error, or because its reader lets go of it.
"""

import time
from collections.abc import Sequence
from enum import StrEnum

from ipc.errors import EngineUnavailableError, FastInferenceError, RequestTimeoutError
from ipc.messages import RequestId, Welcome
from ipc.request_outputs import RequestOutputs

MAX_WAIT_S = 300.0
"""Without a core; whoever supervises the core has given up long before."""


class CoreLossPolicy(StrEnum):
    """What happens to started requests whose core is lost."""

    RESUME = "resume"
    """They go on with the next core."""
    FAIL = "fail"
    """They end in an error."""


class Recovery:
    """The requests without a core."""

    def __init__(self, policy: CoreLossPolicy) -> None:
        self._policy = policy
        self._held: dict[RequestId, tuple[RequestOutputs, float]] = {}
        """With the time at which each one lost its core."""

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, requests: list[RequestOutputs], loss: FastInferenceError | None = None) -> None:
        """Keep these; under the policy FAIL, started ones end with `loss`, where there is one."""
        for request in requests:
            if request.is_started and loss is not None and self._policy is CoreLossPolicy.FAIL:
                _end(request, loss)
            else:
                self._held[request.request_id] = request, time.monotonic()

    def remove(self, request_id: RequestId) -> bool:
        """Let go of one; False if it is not here."""
        return self._held.pop(request_id, None) is not None

    def take_for(self, core: Welcome, others: Sequence[Welcome] = ()) -> list[RequestOutputs]:
        """All that this core can go on with, in order of arrival. What none of the others could go on with either,
        ready or not, ends in an error; the rest stays.
        """
        taken: list[RequestOutputs] = []
        for request_id, (request, _) in list(self._held.items()):
            if _can_go_on(request, core):
                taken.append(request)
            elif any(_can_go_on(request, other) for other in others):
                continue
            else:
                _end(request, _why_not(request, core))
            del self._held[request_id]
        return taken

    def expire(self, now: float) -> None:
        """End those whose time is over, on the monotonic clock."""
        for request_id, (request, lost_at) in list(self._held.items()):
            if request.timeout_ms and now - request.sent_at > request.timeout_ms / 1000:
                error: FastInferenceError = RequestTimeoutError("The request did not end in the time that it had.")
            elif now - lost_at > MAX_WAIT_S:
                error = EngineUnavailableError("The engine stopped and did not come back.", code="engine_stopped")
            else:
                continue
            del self._held[request_id]
            _end(request, error)

    def fail_all(self, error: FastInferenceError) -> None:
        """End every one with this error."""
        for request, _ in self._held.values():
            _end(request, error)
        self._held.clear()


def _can_go_on(request: RequestOutputs, core: Welcome) -> bool:
    """True where this core can take the request, in so far as it depends on its model and adapters."""
    return _fits_model(request, core) and (not request.add.adapter or request.add.adapter in core.adapters)


def _fits_model(request: RequestOutputs, core: Welcome) -> bool:
    """Token ids mean the same only with one tokenizer, and a text goes on only with one model."""
    if request.core is None:
        return True
    if request.is_started:
        return request.core.model_fingerprint == core.model_fingerprint
    return has_same_tokenizer(request.core, core)


def _why_not(request: RequestOutputs, core: Welcome) -> EngineUnavailableError:
    if _fits_model(request, core):
        return EngineUnavailableError("This adapter is not served any more.", code="engine_replaced")
    return EngineUnavailableError("Another model has replaced this one.", code="engine_replaced")


def has_same_tokenizer(one: Welcome, other: Welcome) -> bool:
    """True where token ids of one mean the same to the other."""
    return one.tokenizer_fingerprint == other.tokenizer_fingerprint and one.vocab_size == other.vocab_size


def _end(request: RequestOutputs, error: FastInferenceError) -> None:
    request.fail(error)
    request.notify()
