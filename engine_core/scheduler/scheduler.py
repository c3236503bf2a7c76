"""The scheduler: which request computes how many tokens in the next step, within one token budget.

Called by `EngineCore.step`; touches counts and block ids only. Owns the requests (`fair_queue`) and asks
`KVCacheManager` for blocks. The policy in words is in the package docstring.
Invariants: a request is in exactly one of waiting, running, finished; the tokens of a step never exceed the budget; a
request that was scheduled in a step is not preempted in it.
"""

import time
from collections.abc import Sequence

from engine_core.kv_cache.kv_cache_manager import KVCacheManager
from engine_core.outputs import RequestKey, SchedulerOutput
from engine_core.request import Request, RequestStatus
from engine_core.scheduler.admission_order import admission_order
from engine_core.scheduler.fair_queue import FairQueue
from engine_core.scheduler.prefill_budget import MIN_TOKENS, PrefillBudget
from engine_core.scheduler.step_builder import StepBuilder
from ipc.config import SchedulerConfig
from ipc.errors import ConfigError
from ipc.messages import Load, RequestClass

LOOK_AHEAD = 8
"""Waiting requests that are tried when the head of the queue does not fit."""
MAX_CANDIDATES = 64
"""Waiting requests of each class that are looked at, those included that wait for a prefix which another computes."""
MAX_TIMES_SKIPPED = 64
"""A head that was passed this often is waited for."""
MAX_PREEMPTIONS = 2
"""A request that was preempted this often gives up no seat any more, and its blocks only after others of its class."""

_ALL_CLASSES = (RequestClass.ONLINE, RequestClass.BATCH)
_ONE_BY_ONE = ((RequestClass.ONLINE,), (RequestClass.BATCH,))


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
        order = admission_order(config, kv_cache.num_blocks * kv_cache.block_size)
        self._queue = FairQueue(order, config.batch_share)
        self._prefill_budget = PrefillBudget(config.max_num_batched_tokens, config.step_time_target)
        self._dropped: list[RequestKey] = []
        self._last_step = StepBuilder(0)
        self._step = 0
        self.num_preemptions = 0
        """Of both kinds: for want of blocks, and for fairness."""
        self.num_fairness_preemptions = 0

    @property
    def has_requests(self) -> bool:
        """True while anything runs or waits."""
        return self._queue.num_running + self._queue.num_waiting > 0

    @property
    def load(self) -> Load:
        """Occupancy, for clients."""
        return Load(
            num_running=self._queue.num_running,
            num_waiting=self._queue.num_waiting,
            num_queued_tokens=self._queue.num_waiting_tokens,
            num_free_blocks=self._kv_cache.num_free_blocks,
            num_blocks=self._kv_cache.num_blocks,
        )

    @property
    def num_prefill_budget_tokens(self) -> int:
        """Prompt tokens that a step with decodes may compute now."""
        return self._prefill_budget.num_tokens

    def add(self, request: Request) -> None:
        """Queue a request; the caller has checked that it can ever fit."""
        request.status = RequestStatus.WAITING
        self._queue.add(request)

    def finish(self, request: Request, *, is_trusted: bool = True) -> None:
        """Let go of a request, wherever it is; `is_trusted=False` also drops what it left in the prefix cache."""
        if request.status is RequestStatus.RUNNING:
            self._queue.stop(request)
            self._dropped.append(request.key)
        elif request.status is not RequestStatus.NEW:
            self._queue.remove(request)
        request.status = RequestStatus.FINISHED
        if is_trusted:
            self._kv_cache.free(request)
        else:
            self._kv_cache.discard(request)

    def schedule(self) -> SchedulerOutput:
        """Plan the next step and count its tokens as computed."""
        step = StepBuilder(self._config.max_num_batched_tokens)
        self._yield_seat()
        for classes in (_ALL_CLASSES,) if self._queue.is_batch_owed else _ONE_BY_ONE:
            self._schedule_running(step, classes)
            if not step.has_preempted:
                self._schedule_waiting(step, classes)
            if step.num_online_prefill_tokens:
                break  # a person waits for the first token: batch, which is not owed this step, is left out
        self._step += 1
        self._last_step = step
        dropped, self._dropped = self._dropped, []
        return step.build(self._step, dropped)

    def observe_step(self, seconds: float) -> None:
        """Learn how long the step that was planned last took."""
        step = self._last_step
        if step.num_prefill_tokens and (step.num_decodes or step.num_batch_prefill_tokens):
            self._prefill_budget.observe(seconds, step.num_prefill_tokens)

    def _schedule_running(self, step: StepBuilder, classes: Sequence[RequestClass]) -> None:
        """Decodes, then prefill chunks, of the running requests of these classes."""
        decodes: list[Request] = []
        prefills: list[Request] = []
        for request in self._queue.running(classes):
            is_decode = len(request.token_ids) - request.num_computed_tokens == 1
            (decodes if is_decode else prefills).append(request)
        decodes = self._make_room(decodes, step)
        for request in decodes:
            step.add_decode(request, self._kv_cache.extend(request))
            self._kv_cache.publish(request, request.num_computed_tokens + 1)
            request.num_computed_tokens += 1
        self._queue.charge_decodes(decodes)
        prefills.sort(key=_batch_first)  # both classes are here only where batch is owed
        for request in prefills:
            if request.status is RequestStatus.RUNNING:
                self._prefill(step, request)

    def _make_room(self, decodes: list[Request], step: StepBuilder) -> list[Request]:
        """Preempt until each of these that is left can get the block that its next token may need; returns those."""
        while self._kv_cache.num_missing_blocks(decodes) > self._kv_cache.num_free_blocks:
            self._preempt(min(self._queue.running(_ALL_CLASSES), key=_loss))
            step.has_preempted = True
            decodes = [request for request in decodes if request.status is RequestStatus.RUNNING]
        return decodes

    def _yield_seat(self) -> None:
        """Preempt one request where the next to be admitted has no place because others hold more than their share."""
        head = next(self._queue.candidates(_ALL_CLASSES, 1), None)
        if head is None or self._is_deferred(head):
            return
        if head.request_class is RequestClass.BATCH and not self._queue.is_batch_owed:
            return  # what it would take, online would take back in this very step
        candidates = [r for r in self._queue.seat_givers(head) if r.num_preemptions < MAX_PREEMPTIONS]
        has_seat = self._queue.num_running < self._config.max_num_seqs
        if not candidates or (has_seat and self._kv_cache.can_admit(head, self._num_spare_blocks(head))):
            return
        self._preempt(min(candidates, key=_loss))
        self.num_fairness_preemptions += 1
        head.num_times_skipped = MAX_TIMES_SKIPPED  # what was given up for it goes to nobody else

    def _preempt(self, request: Request) -> None:
        self._kv_cache.free(request)
        self._queue.stop(request)
        self._dropped.append(request.key)
        request.status = RequestStatus.PREEMPTED
        request.num_computed_tokens = 0
        request.num_preemptions += 1
        self._queue.add(request)
        self.num_preemptions += 1

    def _schedule_waiting(self, step: StepBuilder, classes: Sequence[RequestClass]) -> None:
        while step.token_budget > 0 and self._queue.num_running < self._config.max_num_seqs:
            request = self._try_admit_next(step, classes)
            if request is None:
                return
            step.add_new(request, self._kv_cache.block_ids(request))
            self._prefill(step, request)

    def _try_admit_next(self, step: StepBuilder, classes: Sequence[RequestClass]) -> Request | None:
        """Move the first waiting request that fits to running, or return None."""
        skipped: list[Request] = []
        for request in self._queue.candidates(classes, MAX_CANDIDATES):
            is_waited_for = request.num_times_skipped >= MAX_TIMES_SKIPPED
            if self._num_prefill_tokens_left(step, request) == 0 or (not is_waited_for and self._is_deferred(request)):
                continue
            num_cached_tokens = self._kv_cache.try_admit(request, self._num_spare_blocks(request))
            if num_cached_tokens is not None:
                self._start(request, num_cached_tokens)
                for passed in skipped:
                    passed.num_times_skipped += 1
                return request
            skipped.append(request)
            if is_waited_for or len(skipped) == LOOK_AHEAD:
                return None
        return None

    def _start(self, request: Request, num_cached_tokens: int) -> None:
        self._queue.start(request)
        request.status = RequestStatus.RUNNING
        request.num_computed_tokens = num_cached_tokens
        request.num_times_skipped = 0
        if request.first_scheduled_at is None:
            request.first_scheduled_at = time.monotonic()
            request.num_cached_tokens = min(num_cached_tokens, request.num_prompt_tokens)

    def _is_deferred(self, request: Request) -> bool:
        """True while a running request computes the very block that this one needs next, which it can then share.

        Online never waits for batch, whose prefills may be left out of steps. The other is running, so it gets on or
        goes away: the deferral ends either way.
        """
        other = self._kv_cache.computing_request(request)
        return other is not None and other.request_class <= request.request_class

    def _num_spare_blocks(self, request: Request) -> int:
        """Blocks that must stay free beside a request that is admitted; an idle core always admits.

        One that was preempted comes back when each running request can grow by a block, so that it is not thrown out
        again at once.
        """
        num_running = self._queue.num_running
        if num_running == 0:
            return 0
        num_spare = max(1, self._kv_cache.num_blocks // 100)
        return max(num_spare, num_running) if request.status is RequestStatus.PREEMPTED else num_spare

    def _num_prefill_tokens_left(self, step: StepBuilder, request: Request) -> int:
        """Prompt tokens that the step may still compute, for a request of this class.

        Without decodes nobody is held up, so the budget is the whole step; but batch keeps to it always, since an
        online request may come at any moment.
        """
        if step.num_decodes or request.request_class is RequestClass.BATCH:
            return max(0, min(step.token_budget, self._prefill_budget.num_tokens - step.num_prefill_tokens))
        return step.token_budget

    def _prefill(self, step: StepBuilder, request: Request) -> None:
        """Schedule the next chunk of a running request, for which it has its blocks."""
        num_left = self._num_prefill_tokens_left(step, request)
        num_tokens = min(request.num_tokens - request.num_computed_tokens, num_left)
        if self._queue.num_running + self._queue.num_waiting > 1:
            num_tokens = min(num_tokens, self._config.max_prefill_chunk)
        if self._queue.num_waiting:  # leave something for a short prompt behind a long one
            num_tokens = min(num_tokens, max(MIN_TOKENS, self._prefill_budget.num_tokens // 2))
        if num_tokens > 0:
            step.add_prefill(request, num_tokens)
            self._kv_cache.publish(request, request.num_computed_tokens + num_tokens)
            request.num_computed_tokens += num_tokens
            self._queue.charge_prefill(request, num_tokens)


def _batch_first(request: Request) -> bool:
    return request.request_class is RequestClass.ONLINE


def _loss(request: Request) -> tuple[bool, bool, int, int]:
    """Who is preempted first: batch, then who was not preempted often yet, then the least computed, then the latest."""
    is_online = request.request_class is RequestClass.ONLINE
    return (is_online, request.num_preemptions >= MAX_PREEMPTIONS, request.num_computed_tokens, -request.key)
