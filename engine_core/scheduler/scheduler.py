"""The scheduler: running requests first, then waiting ones, within one token budget.

Owns the waiting queue and the running set. Called by `EngineCore.step`; touches counts and block ids only.
Invariants: a request is in exactly one of waiting, running, finished; the tokens of a step never exceed the budget; a
request that was scheduled in a step is not preempted in it. The policy in words is in the package docstring.
"""

import time
from dataclasses import dataclass, field

from engine_core.kv_cache.kv_cache_manager import KVCacheManager
from engine_core.outputs import NewRequestData, RequestKey, ScheduledRequest, SchedulerOutput
from engine_core.request import Request, RequestStatus
from engine_core.scheduler.request_queue import RequestQueue
from ipc.config import SchedulerConfig
from ipc.errors import ConfigError
from ipc.messages import Load

LOOK_AHEAD = 8
"""Waiting requests that are tried when the head of the queue does not fit."""
MAX_TIMES_SKIPPED = 64
"""A head that was passed this often is waited for."""


@dataclass(slots=True)
class _StepBuilder:
    """A step in the making."""

    token_budget: int
    new_requests: list[NewRequestData] = field(default_factory=list)
    scheduled: list[ScheduledRequest] = field(default_factory=list)
    num_preempted: int = 0


class Scheduler:
    """Decides each step."""

    def __init__(self, config: SchedulerConfig, kv_cache: KVCacheManager) -> None:
        if config.max_num_batched_tokens < config.max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens ({config.max_num_batched_tokens}) must be at least "
                f"max_num_seqs ({config.max_num_seqs}), so that each sequence gets its token (--max-num-seqs)"
            )
        self._config = config
        self._kv_cache = kv_cache
        self._waiting = RequestQueue()
        self._running: dict[RequestKey, Request] = {}
        self._dropped: list[RequestKey] = []
        self._step = 0
        self.num_preemptions = 0

    @property
    def has_requests(self) -> bool:
        """True while anything runs or waits."""
        return bool(self._running) or bool(self._waiting)

    @property
    def load(self) -> Load:
        """Occupancy, for clients."""
        return Load(
            num_running=len(self._running),
            num_waiting=len(self._waiting),
            num_queued_tokens=self._waiting.num_tokens,
            num_free_blocks=self._kv_cache.num_free_blocks,
            num_blocks=self._kv_cache.num_blocks,
        )

    def add(self, request: Request) -> None:
        """Queue a request; the caller has checked that it can ever fit."""
        request.status = RequestStatus.WAITING
        self._waiting.add(request)

    def finish(self, request: Request, *, is_trusted: bool = True) -> None:
        """Let go of a request, wherever it is; `is_trusted=False` also drops what it left in the prefix cache."""
        if request.status is RequestStatus.RUNNING:
            del self._running[request.key]
            self._dropped.append(request.key)
        elif request.status is not RequestStatus.NEW:
            self._waiting.remove(request)
        request.status = RequestStatus.FINISHED
        if is_trusted:
            self._kv_cache.free(request)
        else:
            self._kv_cache.discard(request)

    def schedule(self) -> SchedulerOutput:
        """Plan the next step and count its tokens as computed."""
        step = _StepBuilder(self._config.max_num_batched_tokens)
        self._schedule_running(step)
        if step.num_preempted == 0:
            self._schedule_waiting(step)
        self._step += 1
        dropped, self._dropped = self._dropped, []
        return SchedulerOutput(
            step=self._step,
            new_requests=tuple(step.new_requests),
            scheduled=tuple(step.scheduled),
            dropped_request_keys=tuple(dropped),
        )

    def observe_step(self, seconds: float) -> None:
        """Learn how long the step that was planned last took."""

    def _schedule_running(self, step: _StepBuilder) -> None:
        for request in sorted(self._running.values(), key=_running_order):
            if step.token_budget == 0:
                break
            if request.status is not RequestStatus.RUNNING:
                continue  # preempted a moment ago
            num_tokens = self._num_tokens_to_schedule(request, step)
            new_block_ids = self._extend_or_preempt(request, request.num_computed_tokens + num_tokens, step)
            if new_block_ids is not None:
                self._append(step, request, num_tokens, new_block_ids)

    def _extend_or_preempt(self, request: Request, num_tokens: int, step: _StepBuilder) -> tuple[int, ...] | None:
        """Blocks for the request; None if it was preempted itself, because it has the least to lose."""
        while (new_block_ids := self._kv_cache.try_extend(request, num_tokens)) is None:
            scheduled = {item.key for item in step.scheduled}
            candidates = [other for other in self._running.values() if other.key not in scheduled]
            victim = min(candidates, key=lambda other: (other.num_computed_tokens, -other.key))
            self._preempt(victim, step)
            if victim is request:
                return None
        return new_block_ids

    def _preempt(self, request: Request, step: _StepBuilder) -> None:
        self._kv_cache.free(request)
        del self._running[request.key]
        self._dropped.append(request.key)
        request.status = RequestStatus.PREEMPTED
        request.num_computed_tokens = 0
        request.num_preemptions += 1
        self._waiting.add(request)
        self.num_preemptions += 1
        step.num_preempted += 1

    def _schedule_waiting(self, step: _StepBuilder) -> None:
        while step.token_budget > 0 and len(self._running) < self._config.max_num_seqs:
            request = self._try_admit_next()
            if request is None:
                return
            num_tokens = self._num_tokens_to_schedule(request, step)
            step.new_requests.append(
                NewRequestData(
                    key=request.key,
                    token_ids=tuple(request.token_ids),
                    num_prompt_tokens=request.num_prompt_tokens,
                    sampling_params=request.sampling_params,
                    task=request.task,
                    block_ids=self._kv_cache.block_ids(request),
                    grammar=request.grammar,
                )
            )
            self._append(step, request, num_tokens, ())

    def _try_admit_next(self) -> Request | None:
        """Move the first waiting request that fits to running, or return None."""
        candidates = self._waiting.first(LOOK_AHEAD)
        num_spare_blocks = max(1, self._kv_cache.num_blocks // 100) if self._running else 0
        for request in candidates:
            num_cached_tokens = self._kv_cache.try_admit(request, num_spare_blocks)
            if num_cached_tokens is not None:
                break
            if request.num_times_skipped >= MAX_TIMES_SKIPPED:
                return None
        else:
            return None
        for skipped in candidates[: candidates.index(request)]:
            skipped.num_times_skipped += 1
        self._waiting.remove(request)
        self._running[request.key] = request
        request.status = RequestStatus.RUNNING
        request.num_computed_tokens = num_cached_tokens
        if request.first_scheduled_at is None:
            request.first_scheduled_at = time.monotonic()
            request.num_cached_tokens = min(num_cached_tokens, request.num_prompt_tokens)
        return request

    def _num_tokens_to_schedule(self, request: Request, step: _StepBuilder) -> int:
        num_tokens = min(request.num_tokens - request.num_computed_tokens, step.token_budget)
        is_contended = len(self._running) + len(self._waiting) > 1
        return min(num_tokens, self._config.max_prefill_chunk) if is_contended else num_tokens

    def _append(self, step: _StepBuilder, request: Request, num_tokens: int, new_block_ids: tuple[int, ...]) -> None:
        num_computed_after = request.num_computed_tokens + num_tokens
        step.scheduled.append(
            ScheduledRequest(
                key=request.key,
                num_computed_tokens=request.num_computed_tokens,
                num_scheduled_tokens=num_tokens,
                new_block_ids=new_block_ids,
                is_last_chunk=num_computed_after == request.num_tokens,
            )
        )
        self._kv_cache.publish(request, num_computed_after)
        request.num_computed_tokens = num_computed_after
        step.token_budget -= num_tokens


def _running_order(request: Request) -> tuple[bool, int, int]:
    """Decodes before prefills; among decodes the one with the most to lose first, among prefills the oldest."""
    is_prefill = request.num_tokens - request.num_computed_tokens > 1
    return (is_prefill, 0 if is_prefill else -request.num_computed_tokens, request.key)
