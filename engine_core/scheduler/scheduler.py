"""The scheduler: which request computes how many tokens in the next step, within one token budget.

Called by `EngineCore.step`; touches counts and block ids only. Owns the requests (`fair_queue`), asks `KVCacheManager`
for blocks and `Places` who gives way. The policy in words is in the package docstring.
Invariants: a request is in exactly one of waiting, running, finished; the tokens of a step never exceed the budget; a
request that was scheduled in a step is not preempted in it.
"""

import time
from collections.abc import Sequence

from engine_core.kv_cache.kv_cache_manager import KVCacheManager
from engine_core.outputs import RequestKey, SchedulerOutput
from engine_core.request import Request, RequestStatus
from engine_core.scheduler.admission_order import admission_order
from engine_core.scheduler.batch_share import BatchShare
from engine_core.scheduler.batch_turns import BatchTurns
from engine_core.scheduler.drafts import Drafts
from engine_core.scheduler.fair_queue import FairQueue
from engine_core.scheduler.places import Places, least_important
from engine_core.scheduler.prefill_chunks import PrefillChunks
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

_ONLINE = (RequestClass.ONLINE,)
_BATCH = (RequestClass.BATCH,)
_ALL_CLASSES = (RequestClass.ONLINE, RequestClass.BATCH)


class Scheduler:
    """Decides each step."""

    def __init__(
        self,
        config: SchedulerConfig,
        kv_cache: KVCacheManager,
        drafts: Drafts | None = None,
        *,
        has_whole_prompts: bool = False,
    ) -> None:
        """`drafts`: None for no speculation. `has_whole_prompts`: the model computes a prompt in one step, or not."""
        if config.max_num_batched_tokens < config.max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens ({config.max_num_batched_tokens}) must be at least "
                f"max_num_seqs ({config.max_num_seqs}), so that each sequence gets its token (--max-num-seqs)"
            )
        self._config = config
        self._kv_cache = kv_cache
        self._drafts = drafts
        order = admission_order(config, kv_cache.num_blocks * kv_cache.block_size)
        self._batch_share = BatchShare(config.batch_share, config.max_num_seqs)
        self._queue = FairQueue(order, self._batch_share)
        self._places = Places(self._queue, kv_cache, self._batch_share)
        self._chunks = PrefillChunks(config, self._queue, are_whole=has_whole_prompts)
        self._batch_turns = BatchTurns()
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

    def num_prefill_budget_tokens(self, num_decodes: int) -> int:
        """Prompt tokens that a step with so many decodes may compute now."""
        return self._chunks.num_budget_tokens(num_decodes)

    @property
    def num_drafts(self) -> int:
        """Drafts that were computed."""
        return self._drafts.num_drafts if self._drafts is not None else 0

    @property
    def num_draft_tokens(self) -> int:
        """Draft tokens that were computed."""
        return self._drafts.num_draft_tokens if self._drafts is not None else 0

    @property
    def num_accepted_tokens(self) -> int:
        """How many of them were right."""
        return self._drafts.num_accepted_tokens if self._drafts is not None else 0

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

    def restart(self, request: Request) -> None:
        """Compute a running request from its beginning, as after a preemption, without what it has in the cache."""
        self._kv_cache.discard(request)
        self._requeue(request)

    def schedule(self, alone: Request | None = None) -> SchedulerOutput:
        """Plan the next step and count its tokens as computed.

        Nobody else is in the step of a request that is to be `alone`, if it has the blocks that it needs.
        """
        step = StepBuilder(self._config.max_num_batched_tokens)
        if alone is None or not self._try_schedule_alone(step, alone):
            self._schedule_all(step)
        self._step += 1
        self._last_step = step
        dropped, self._dropped = self._dropped, []
        return step.build(self._step, dropped)

    def _try_schedule_alone(self, step: StepBuilder, request: Request) -> bool:
        if request.status is RequestStatus.RUNNING:
            if self._kv_cache.num_missing_blocks([request]) > self._kv_cache.num_free_blocks:
                return False
        elif not self._has_free_seat or not self._admit(step, request, 0):
            return False
        if request.num_tokens - request.num_computed_tokens == 1:
            self._decode(step, [request])
        else:
            self._add_prefill(step, request, min(request.num_tokens - request.num_computed_tokens, step.token_budget))
        return True

    def _schedule_all(self, step: StepBuilder) -> None:
        self._make_room(step)
        if not step.has_preempted and self._queue.num_waiting:
            self._take_places(step)
        if self._batch_share.is_owed:
            self._schedule_classes(step, _ALL_CLASSES)
        else:
            self._schedule_classes(step, _ONLINE)
            if not step.num_online_prefill_tokens:  # else a person waits for the first token: batch is left out
                step.is_batch_short = self._has_online
                self._schedule_classes(step, _BATCH)
        if self._drafts is not None:
            is_anybody_waiting_for_blocks = self._queue.num_waiting > 0 and self._has_free_seat
            running, num_running = self._queue.running(_ALL_CLASSES), self._queue.num_running
            self._drafts.add_to(step, running, num_running, may_take_blocks=not is_anybody_waiting_for_blocks)

    def observe_step(self, seconds: float) -> None:
        """Learn how long the step that was planned last took."""
        step = self._last_step
        if step.num_prefill_tokens or not step.num_draft_tokens:
            self._chunks.observe(seconds, step)
        if self._drafts is not None:
            self._drafts.observe_step(step, seconds)

    def accept_draft(self, request: Request, num_drafted: int, num_accepted: int) -> None:
        """So many tokens of a draft were right, and are computed: all known tokens of the request but the last.

        To be called after `observe_step`, once the request has its tokens, and before it is finished.
        """
        assert self._drafts is not None
        self._drafts.observe_draft(request, num_drafted, num_accepted)
        self._kv_cache.publish(request, request.num_computed_tokens + num_accepted)
        request.num_computed_tokens += num_accepted
        self._queue.charge_decodes([request] * num_accepted)

    def _make_room(self, step: StepBuilder) -> None:
        """Preempt until each running request can get the block that its next token may need; batch only for batch."""
        for classes, victims in ((_ONLINE, _ALL_CLASSES), (_ALL_CLASSES, _BATCH)):
            while self._kv_cache.num_missing_blocks(self._queue.running(classes)) > self._kv_cache.num_free_blocks:
                self._preempt(min(self._queue.running(victims), key=least_important))
                step.has_preempted = True

    def _take_places(self, step: StepBuilder) -> None:
        """Admit those who have a claim to places that others hold, and preempt those."""
        num_free_seats = self._config.max_num_seqs - self._queue.num_running
        for request_class in _ALL_CLASSES:
            for head in list(self._queue.candidates(request_class, LOOK_AHEAD)):
                if self._is_deferred(head):
                    continue
                has_seat = num_free_seats > 0
                if has_seat and self._kv_cache.can_admit(head, self._num_spare_blocks(head)):
                    num_free_seats -= 1
                    continue
                victims = self._places.victims_for(head, has_seat=has_seat)
                if victims is None:
                    continue
                if not victims:
                    return  # what it has a claim to is not enough yet: nobody behind it takes that away
                for victim in victims:
                    self._preempt(victim)
                self.num_fairness_preemptions += len(victims)
                step.has_preempted = True
                self._admit(step, head, self._places.num_spare_blocks(self._queue.num_running, comes_back=True))

    def _schedule_classes(self, step: StepBuilder, classes: Sequence[RequestClass]) -> None:
        """Decodes, then prefill chunks, of the running requests of these classes, then new ones."""
        decodes: list[Request] = []
        prefills: list[Request] = []
        for request in self._queue.running(classes):
            is_decode = len(request.token_ids) - request.num_computed_tokens == 1
            (decodes if is_decode else prefills).append(request)
        if step.is_batch_short and decodes:
            num_decodes = self._chunks.num_decodes_beside_online(step.num_decodes + len(decodes))
            decodes = self._batch_turns.take(decodes, max(1, num_decodes - step.num_decodes))
        self._decode(step, decodes)
        prefills.sort(key=_batch_first)  # both classes are here only where batch is owed
        for request in prefills:
            self._prefill(step, request)
        if not step.has_preempted:
            self._schedule_waiting(step, classes)

    def _decode(self, step: StepBuilder, requests: list[Request]) -> None:
        for request in requests:
            step.add_decode(request, self._kv_cache.extend(request))
            self._kv_cache.publish(request, request.num_computed_tokens + 1)
            request.num_computed_tokens += 1
        self._queue.charge_decodes(requests)

    def _preempt(self, request: Request) -> None:
        self._kv_cache.free(request)
        request.num_preemptions += 1
        self.num_preemptions += 1
        self._requeue(request)

    def _requeue(self, request: Request) -> None:
        self._queue.stop(request)
        self._dropped.append(request.key)
        request.status = RequestStatus.PREEMPTED
        request.num_computed_tokens = 0
        self._queue.add(request)

    def _schedule_waiting(self, step: StepBuilder, classes: Sequence[RequestClass]) -> None:
        while step.token_budget > 0 and self._has_free_seat:
            request = self._try_admit_next(step, classes)
            if request is None:
                return
            self._prefill(step, request)

    def _try_admit_next(self, step: StepBuilder, classes: Sequence[RequestClass]) -> Request | None:
        """Move the first waiting request that fits to running, or return None.

        Batch comes first as far as it is owed seats, and holds up online where it is overdue; else it comes only where
        no online request waits for room.
        """
        is_batch_first = self._queue.num_batch_running < self._batch_share.num_owed_seats
        for request_class in reversed(classes) if is_batch_first else classes:
            if request_class is RequestClass.BATCH and step.is_online_waiting_for_room and not is_batch_first:
                return None
            request, is_one_too_large = self._try_admit_of_class(step, request_class)
            if request is not None:
                return request
            if request_class is RequestClass.ONLINE:
                step.is_online_waiting_for_room = is_one_too_large
            elif is_one_too_large and self._batch_share.is_overdue:
                return None
        return None

    def _try_admit_of_class(self, step: StepBuilder, request_class: RequestClass) -> tuple[Request | None, bool]:
        """The admitted request if any, and whether one was passed over since it does not fit."""
        skipped: list[Request] = []
        for request in self._queue.candidates(request_class, MAX_CANDIDATES):
            is_waited_for = request.num_times_skipped >= MAX_TIMES_SKIPPED
            if not self._chunks.has_room(step, request):
                break
            if not is_waited_for and self._is_deferred(request):
                continue
            if self._admit(step, request, self._num_spare_blocks(request)):
                for passed in skipped:
                    passed.num_times_skipped += 1
                return request, bool(skipped)
            skipped.append(request)
            if is_waited_for or len(skipped) == LOOK_AHEAD:
                break
        return None, bool(skipped)

    def _admit(self, step: StepBuilder, request: Request, num_spare_blocks: int) -> bool:
        """Move a waiting request to running, if it fits."""
        num_cached_tokens = self._kv_cache.try_admit(request, num_spare_blocks)
        if num_cached_tokens is None:
            return False
        self._queue.start(request)
        request.status = RequestStatus.RUNNING
        request.num_computed_tokens = num_cached_tokens
        request.num_times_skipped = 0
        if request.times.first_scheduled_at is None:
            request.times.on_scheduled()
            request.num_cached_tokens = min(num_cached_tokens, request.num_prompt_tokens)
        step.add_new(request, self._kv_cache.block_ids(request))
        return True

    def _is_deferred(self, request: Request) -> bool:
        """True while a running request computes the very block that this one needs next, which it can then share.

        Online never waits for batch, whose prefills may be left out of steps. The other is running, so it gets on or
        goes away: the deferral ends either way.
        """
        other = self._kv_cache.computing_request(request)
        return other is not None and other.request_class <= request.request_class

    @property
    def _has_online(self) -> bool:
        """True while online requests are here, or may come at any moment."""
        now = time.monotonic()
        if self._queue.has_online:
            self._batch_turns.note_online(now)
        return self._batch_turns.has_online(now)

    @property
    def _has_free_seat(self) -> bool:
        return self._queue.num_running < self._config.max_num_seqs

    def _num_spare_blocks(self, request: Request) -> int:
        comes_back = request.status is RequestStatus.PREEMPTED
        return self._places.num_spare_blocks(self._queue.num_running, comes_back=comes_back)

    def _prefill(self, step: StepBuilder, request: Request) -> None:
        """Schedule the next chunk of a running request, for which it has its blocks."""
        num_tokens = self._chunks.num_tokens(step, request)
        if num_tokens > 0:
            self._add_prefill(step, request, num_tokens)

    def _add_prefill(self, step: StepBuilder, request: Request, num_tokens: int) -> None:
        step.add_prefill(request, num_tokens)
        self._kv_cache.publish(request, request.num_computed_tokens + num_tokens)
        request.num_computed_tokens += num_tokens
        self._queue.charge_prefill(request, num_tokens)


def _batch_first(request: Request) -> bool:
    return request.request_class is RequestClass.ONLINE
