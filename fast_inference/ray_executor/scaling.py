"""How many cores a fleet wants, between MIN and MAX, by the prompt tokens that wait. A pure policy: times come in.

Asked by `directory_actor.py` about twice a second. Invariant: at most one core more or less at a time, never while one
of those that are wanted is not there yet, and never sooner than `COOL_DOWN_S` after the last change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ipc.messages import Load

UP_AFTER_S = 2.0
"""A queue that is gone sooner needs no core, which takes longer than that to start."""
COOL_DOWN_S = 5.0
_SPARE_SHARE = 0.5
"""One core less must leave so much of the other cores' places free."""


@dataclass(frozen=True, slots=True)
class CoreLoad:
    """Of a core that takes requests."""

    load: Load
    max_num_seqs: int


class ScalingPolicy:
    """Of one fleet."""

    def __init__(self, min_cores: int, max_cores: int, up_queued_tokens: int, down_idle_s: float) -> None:
        self._min_cores = min_cores
        self._max_cores = max_cores
        self._up_queued_tokens = up_queued_tokens
        self._down_idle_s = down_idle_s
        self._busy_since: float | None = None
        self._idle_since: float | None = None
        self._changed_at: float | None = None

    def num_wanted(self, now: float, num_wanted: int, cores: Sequence[CoreLoad]) -> int:
        """The number of cores from now on, where `num_wanted` were wanted up to now and these take requests."""
        bounded = min(max(num_wanted, self._min_cores), self._max_cores)
        if bounded != num_wanted or not cores:
            self._busy_since = self._idle_since = None
            return bounded
        queued_tokens = sum(core.load.num_queued_tokens for core in cores)
        is_busy = queued_tokens > self._up_queued_tokens * len(cores)
        self._busy_since = _since(self._busy_since, now, is_busy)
        self._idle_since = _since(self._idle_since, now, not queued_tokens and _has_one_to_spare(cores))
        if len(cores) < num_wanted or self._is_cooling(now):
            return num_wanted
        if num_wanted < self._max_cores and _lasts(self._busy_since, now, UP_AFTER_S):
            return self._change(now, num_wanted + 1)
        if num_wanted > self._min_cores and _lasts(self._idle_since, now, self._down_idle_s):
            return self._change(now, num_wanted - 1)
        return num_wanted

    def _is_cooling(self, now: float) -> bool:
        return self._changed_at is not None and now - self._changed_at < COOL_DOWN_S

    def _change(self, now: float, num_wanted: int) -> int:
        self._changed_at, self._busy_since, self._idle_since = now, None, None
        return num_wanted


def _has_one_to_spare(cores: Sequence[CoreLoad]) -> bool:
    """True where the rest, without the largest core, would hold what runs, with room to spare."""
    num_requests = sum(core.load.num_running + core.load.num_waiting for core in cores)
    places = sum(core.max_num_seqs for core in cores) - max(core.max_num_seqs for core in cores)
    return num_requests <= places * (1 - _SPARE_SHARE)


def _since(before: float | None, now: float, is_so: bool) -> float | None:
    if not is_so:
        return None
    return now if before is None else before


def _lasts(since: float | None, now: float, for_s: float) -> bool:
    return since is not None and now - since >= for_s
