"""Which refusals of the engine only hold for now, and how long to wait before trying again.

It starts, restarts or drains, or its queue is full: whoever has time waits that out. Used for the lines of batch jobs
(`executor.py`) and the prompts of `LLM` (`fast_inference/offline/`); one `Patience` belongs to one of them.
"""

from ipc.client import EngineClient
from ipc.errors import EngineUnavailableError, FastInferenceError, QueueFullError

_MIN_WAIT_S, _MAX_WAIT_S = 0.05, 0.5
_ENDED_ON_PURPOSE = frozenset({"aborted"})
"""Codes of a request that an administrator has ended."""
_LOST_ON_THE_WAY = frozenset({"stream_gap", "request_lost"})
"""Codes of a request of which engine and client know different things: it is computed anew."""
_MAX_LOSSES = 3
_TRIES_ON_IDLE_ENGINE = 5
"""In a row, after which a refusal is final: it is not for what others do."""


class Patience:
    """With one request that is tried again and again."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._num_tries = 0
        self._num_losses = 0
        self._num_idle_tries = 0

    def wait_s(self, error: FastInferenceError) -> float | None:
        """Seconds until the next try; None where the refusal is final."""
        self._num_tries += 1
        self._num_losses += error.code in _LOST_ON_THE_WAY
        self._num_idle_tries = self._num_idle_tries + 1 if self._is_engine_idle() else 0
        if not self._may_pass(error):
            return None
        return min(_MIN_WAIT_S * 2.0 ** min(self._num_tries, 10), _MAX_WAIT_S)

    def _may_pass(self, error: FastInferenceError) -> bool:
        """True for what only holds for now; a queue that is full although nothing is in it stays so."""
        if isinstance(error, QueueFullError):
            return self._num_idle_tries < _TRIES_ON_IDLE_ENGINE
        if isinstance(error, EngineUnavailableError):
            return error.code not in _ENDED_ON_PURPOSE
        return error.code in _LOST_ON_THE_WAY and self._num_losses <= _MAX_LOSSES

    def _is_engine_idle(self) -> bool:
        load = self._client.load
        return load.num_running == 0 and load.num_waiting == 0
