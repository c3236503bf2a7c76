"""One simulated engine core: the scheduler's rules over counts, where a step takes the time of the step-time model.

The rules are those of `engine_core/scheduler` for requests of one class, one flow and one priority: decodes first, then
running prefills, then waiting requests in order of arrival; chunks as `PrefillBudget` would have them once it knows the
device; whole-prompt admission with cached prefixes; requests wait for a prefix that a running one computes; preemption
of the least computed when blocks run out. Decode steps between two events are made at once by the closed form.
Invariant: at any time as many tokens were emitted as steps have ended, whether they were made one by one or at once;
never more than `max_num_seqs` requests run.
Next: `prefill_rule.py`, then `simulation.py`.
"""

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from engine_core.scheduler.places import MAX_PREEMPTIONS
from engine_core.scheduler.scheduler import LOOK_AHEAD, MAX_CANDIDATES, MAX_TIMES_SKIPPED
from fast_inference.bench.fleet.prefill_rule import PrefillRule
from fast_inference.bench.fleet.prefix_cache import BlockId, PrefixCache
from fast_inference.bench.fleet.sim_request import SimRequest
from fast_inference.bench.fleet.step_time import StepTime
from ipc.messages import Load


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """What is the same for all cores; names and defaults are those of the server."""

    step_time: StepTime
    num_blocks: int
    block_size: int = 32
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    max_prefill_chunk: int = 512


class CoreListener(Protocol):
    """Is told what a core does."""

    def on_tokens(self, num_gaps: int, gap_s: float) -> None:
        """So many tokens came so long after the one before."""

    def on_finished(self, request: SimRequest, now: float) -> None:
        """Its last token is out."""


class SimCore:
    """A core; `now` never falls from call to call. Whoever owns it wakes it at `wakes_at_s`."""

    def __init__(
        self, name: str, settings: CoreSettings, listener: CoreListener, *, has_closed_form: bool = True
    ) -> None:
        """`has_closed_form=False` makes each step by itself, for tests."""
        self.name = name
        self.cache = PrefixCache(settings.num_blocks)
        self.wakes_at_s: float | None = None
        """End of what it computes now; None while it is idle."""
        self._busy_s = 0.0
        self.num_steps = 0
        self.num_preemptions = 0
        self._settings = settings
        self._time = settings.step_time
        self._listener = listener
        self._has_closed_form = has_closed_form
        self._rule = PrefillRule(settings.step_time, settings.max_num_batched_tokens)
        self._waiting: deque[SimRequest] = deque()
        self._decodes: list[SimRequest] = []
        self._num_context_tokens = 0
        """Known tokens of all decodes."""
        self._prefills: list[SimRequest] = []
        self._computing: dict[BlockId, SimRequest] = {}
        """Blocks that a running request has yet to compute."""
        self._began_at_s = 0.0
        """When the steps that run now began."""
        self._num_run_steps = 0
        """Decode steps among them; 0 where it is one step with prompts."""
        self._chunks: list[tuple[SimRequest, int]] = []
        """Prompt tokens of the step that runs."""

    @property
    def num_running(self) -> int:
        """Requests with a seat."""
        return len(self._decodes) + len(self._prefills)

    @property
    def requests(self) -> list[SimRequest]:
        """All that it has."""
        return [*self._decodes, *self._prefills, *self._waiting]

    @property
    def load(self) -> Load:
        """As it would publish it now."""
        return Load(
            num_running=self.num_running,
            num_waiting=len(self._waiting),
            num_queued_tokens=sum([request.num_known_tokens for request in self._waiting]),
            num_free_blocks=self.cache.num_free_blocks,
            num_blocks=self._settings.num_blocks,
        )

    @property
    def step_s(self) -> float:
        """What its next decode step would take."""
        return self._time.decode_s(len(self._decodes), self._num_context_tokens)

    def busy_until(self, now: float) -> float:
        """Seconds in which it computed, up to now."""
        return self._busy_s + (now - self._began_at_s if self.wakes_at_s is not None else 0.0)

    def forget_busy(self, now: float) -> None:
        """Count `busy_until` from now on."""
        self._busy_s -= self.busy_until(now)

    def add(self, request: SimRequest, now: float) -> None:
        """Take in a request; it may be one that another core has begun."""
        request.core = self.name
        request.num_computed_tokens = 0
        request.num_times_skipped = 0
        request.extend_block_ids(self._settings.block_size)
        self._waiting.append(request)
        if self.wakes_at_s is None:
            self._begin(now)
        elif self._num_run_steps > 1 and self.num_running < self._settings.max_num_seqs:
            self._cut_run(now)

    def wake(self, now: float) -> None:
        """To be called at `wakes_at_s`: what ran has ended, and the next begins."""
        self._end(now)
        self._begin(now)

    def stop(self, now: float) -> list[SimRequest]:
        """It dies: the requests that it had, with the tokens of the steps that had ended."""
        if self._num_run_steps > 1:
            self._cut_run(now)
            self._num_run_steps -= 1  # the last one has not ended
            if self._num_run_steps:
                num_steps, num_decodes = self._num_run_steps, len(self._decodes)
                self._end_run(self._began_at_s + self._time.run_s(num_steps, num_decodes, self._num_context_tokens))
        if self.wakes_at_s is not None:
            self._busy_s += now - self._began_at_s
        lost = self.requests
        for request in lost:
            request.held_block_ids, request.num_private_blocks = [], 0
        self._waiting.clear()
        self._decodes, self._prefills, self._chunks, self._computing = [], [], [], {}
        self._num_context_tokens = self._num_run_steps = 0
        self.wakes_at_s = None
        self.cache = PrefixCache(self._settings.num_blocks)
        return lost

    def withdraw_waiting(self) -> list[SimRequest]:
        """It retires: what has not begun goes elsewhere."""
        withdrawn = list(self._waiting)
        self._waiting.clear()
        return withdrawn

    # --- what runs ---

    def _cut_run(self, now: float) -> None:
        """End the decode steps that were begun at once with the one that runs now."""
        num_decodes, context = len(self._decodes), self._num_context_tokens
        num_steps = self._time.num_steps_begun(now - self._began_at_s, num_decodes, context)
        if num_steps < self._num_run_steps:
            self._num_run_steps = num_steps
            self.wakes_at_s = self._began_at_s + self._time.run_s(num_steps, num_decodes, context)

    def _begin(self, now: float) -> None:
        """Plan the next step, or as many decode steps as nothing can happen in."""
        self._began_at_s = now
        self._chunks = []
        has_preempted = self._make_room()
        num_decodes, context = len(self._decodes), self._num_context_tokens
        self._plan_prefills(num_decodes, may_admit=not has_preempted)
        num_prefill_tokens = sum([count for _, count in self._chunks])
        if num_prefill_tokens:
            self._num_run_steps = 0
            self.wakes_at_s = now + self._time.step_s(num_decodes, context, num_prefill_tokens)
        elif num_decodes:
            self._num_run_steps = self._num_steps_alike()
            self.wakes_at_s = now + self._time.run_s(self._num_run_steps, num_decodes, context)
        else:
            assert not self._waiting, f"core {self.name} admits nobody although it is idle"
            self._num_run_steps = 0
            self.wakes_at_s = None

    def _num_steps_alike(self) -> int:
        """Decode steps until a request ends, or blocks may run out."""
        if not self._has_closed_form:
            return 1
        num_steps = min([request.num_output_tokens - request.num_emitted for request in self._decodes])
        num_blocks = len(self._decodes) * (num_steps // self._settings.block_size + 1)
        return num_steps if num_blocks <= self.cache.num_free_blocks else 1

    def _end(self, now: float) -> None:
        self._busy_s += now - self._began_at_s
        num_run_steps, chunks = self._num_run_steps, self._chunks
        if num_run_steps:
            self._end_run(now)
            return
        self.num_steps += 1
        if self._decodes:
            self._listener.on_tokens(len(self._decodes), now - self._began_at_s)
            self._emit(1, now)
        for request, count in chunks:
            request.num_computed_tokens += count
            if request.num_computed_tokens == request.num_known_tokens:
                self._prefills.remove(request)
                self._emit_first(request, now)
        self._chunks = []

    def _end_run(self, now: float) -> None:
        """All steps of a run have ended. Gaps count as equally long: they differ by less than the context grows."""
        num_steps, num_decodes = self._num_run_steps, len(self._decodes)
        self.num_steps += num_steps
        self._listener.on_tokens(num_decodes * num_steps, (now - self._began_at_s) / num_steps)
        self._emit(num_steps, now)
        self._num_run_steps = 0

    def _emit(self, num_steps: int, now: float) -> None:
        """Every decode has so many more tokens."""
        size, cache = self._settings.block_size, self.cache
        self._num_context_tokens += num_steps * len(self._decodes)
        has_finished = False
        for request in self._decodes:
            request.num_emitted += num_steps
            request.last_token_s = now
            request.num_known_tokens += num_steps
            first = request.num_computed_tokens // size
            num_computed = request.num_computed_tokens = request.num_computed_tokens + num_steps
            if num_computed // size > first:
                num_missing = -(-num_computed // size) - request.num_blocks
                if num_missing > 0:
                    cache.allocate(num_missing)
                    request.num_private_blocks += num_missing
                self._publish(request, first, num_computed // size)
            has_finished = has_finished or request.num_emitted == request.num_output_tokens
        if has_finished:
            finished = [request for request in self._decodes if request.num_emitted == request.num_output_tokens]
            self._decodes = [request for request in self._decodes if request.num_emitted < request.num_output_tokens]
            for request in finished:
                self._num_context_tokens -= request.num_known_tokens
                self._finish(request, now)

    def _emit_first(self, request: SimRequest, now: float) -> None:
        """The last chunk of a prefill gives a token."""
        if request.first_token_s < 0:
            request.first_token_s = now
        else:  # it was preempted, or lost its core
            self._listener.on_tokens(1, now - request.last_token_s)
        request.last_token_s = now
        request.num_emitted += 1
        request.num_known_tokens += 1
        if request.num_emitted == request.num_output_tokens:
            self._finish(request, now)
        else:
            self._decodes.append(request)
            self._num_context_tokens += request.num_known_tokens

    def _finish(self, request: SimRequest, now: float) -> None:
        self._release(request)
        self._listener.on_finished(request, now)

    # --- who is in the step ---

    def _plan_prefills(self, num_decodes: int, *, may_admit: bool) -> None:
        """Chunks of the running prefills, then of those who are admitted."""
        budget = self._settings.max_num_batched_tokens - num_decodes
        num_tokens = 0
        for request in self._prefills:
            num_tokens += self._plan_chunk(request, num_decodes, budget, num_tokens)
        while may_admit and self._waiting and num_tokens < budget and self.num_running < self._settings.max_num_seqs:
            admitted = self._try_admit_next(num_decodes, budget, num_tokens)
            if admitted is None:
                return
            num_tokens += self._plan_chunk(admitted, num_decodes, budget, num_tokens)

    def _num_tokens_left(self, num_decodes: int, budget: int, num_planned: int) -> tuple[int, int]:
        """Prompt tokens that the step may still compute, and all that it may."""
        if self.num_running + len(self._waiting) <= 1:
            return budget - num_planned, budget
        num_free_seats = self._settings.max_num_seqs - self.num_running
        num_prompts = 1 + min(len(self._waiting), num_free_seats)
        num_step = self._rule.num_tokens(num_decodes, self._num_context_tokens, num_prompts)
        return max(0, min(budget, num_step) - num_planned), num_step

    def _plan_chunk(self, request: SimRequest, num_decodes: int, budget: int, num_planned: int) -> int:
        """As `PrefillChunks.num_tokens`."""
        num_left, num_step = self._num_tokens_left(num_decodes, budget, num_planned)
        num_tokens = min(request.num_known_tokens - request.num_computed_tokens, num_left)
        if self.num_running + len(self._waiting) > 1:
            num_tokens = min(num_tokens, self._settings.max_prefill_chunk)
        if self._waiting and self.num_running < self._settings.max_num_seqs:
            num_tokens = min(num_tokens, self._rule.num_tokens_beside_waiting(num_step))
        if num_tokens <= 0:
            return 0
        self._chunks.append((request, num_tokens))
        size, first = self._settings.block_size, request.num_computed_tokens
        self._publish(request, first // size, (first + num_tokens) // size)
        return num_tokens

    def _try_admit_next(self, num_decodes: int, budget: int, num_planned: int) -> SimRequest | None:
        """As `Scheduler._try_admit_of_class`."""
        if self._num_tokens_left(num_decodes, budget, num_planned)[0] <= 0:
            return None
        skipped: list[SimRequest] = []
        for request in islice(self._waiting, MAX_CANDIDATES):
            is_waited_for = request.num_times_skipped >= MAX_TIMES_SKIPPED
            num_cached = self._num_cached_blocks(request)
            if not is_waited_for and self._is_deferred(request, num_cached):
                continue
            if self._admit(request, num_cached):
                for passed in skipped:
                    passed.num_times_skipped += 1
                return request
            skipped.append(request)
            if is_waited_for or len(skipped) == LOOK_AHEAD:
                break
        return None

    def _num_cached_blocks(self, request: SimRequest) -> int:
        return self.cache.count_cached(request.block_ids, (request.num_known_tokens - 1) // self._settings.block_size)

    def _is_deferred(self, request: SimRequest, num_cached: int) -> bool:
        limit = (request.num_known_tokens - 1) // self._settings.block_size
        return num_cached < limit and request.block_ids[num_cached] in self._computing

    def _admit(self, request: SimRequest, num_cached: int) -> bool:
        size, cache = self._settings.block_size, self.cache
        cached = request.block_ids[:num_cached]
        num_new = -(-request.num_known_tokens // size) - num_cached
        if num_new + self._num_spare_blocks(request) > cache.num_free_blocks - cache.count_cached_free(cached):
            return False
        cache.touch(cached)
        cache.allocate(num_new)
        request.held_block_ids = cached
        request.num_private_blocks = num_new
        request.num_computed_tokens = num_cached * size
        request.num_times_skipped = 0
        if request.num_cached_tokens < 0:
            request.num_cached_tokens = min(request.num_computed_tokens, request.num_prompt_tokens)
        for block_id in request.block_ids[num_cached:]:
            self._computing.setdefault(block_id, request)
        self._waiting.remove(request)
        self._prefills.append(request)
        return True

    def _num_spare_blocks(self, request: SimRequest) -> int:
        """As `Places.num_spare_blocks`."""
        if not self.num_running:
            return 0
        num_spare = max(1, self._settings.num_blocks // 100)
        return max(num_spare, self.num_running) if request.num_preemptions else num_spare

    # --- blocks ---

    def _make_room(self) -> bool:
        """Give decodes the blocks of their next tokens; True where somebody was preempted for them."""
        has_preempted = False
        size = self._settings.block_size
        while True:
            growing = [request for request in self._decodes if request.num_known_tokens % size == 1]
            growing = [request for request in growing if request.num_blocks * size < request.num_known_tokens]
            if len(growing) <= self.cache.num_free_blocks:
                break
            self._preempt(min(self._decodes + self._prefills, key=_importance))
            has_preempted = True
        for request in growing:
            self.cache.allocate(1)
            request.num_private_blocks += 1
        return has_preempted

    def _preempt(self, request: SimRequest) -> None:
        self._release(request)
        if request in self._prefills:
            self._prefills.remove(request)
        else:
            self._decodes.remove(request)
            self._num_context_tokens -= request.num_known_tokens
        request.num_preemptions += 1
        request.num_computed_tokens = 0
        request.extend_block_ids(self._settings.block_size)
        self.num_preemptions += 1
        self._waiting.appendleft(request)

    def _publish(self, request: SimRequest, first: int, end: int) -> None:
        """Its blocks of these indices are full."""
        if first == end:
            return
        request.extend_block_ids(self._settings.block_size)
        for block_id in request.block_ids[first:end]:
            if self._computing.get(block_id) is request:
                del self._computing[block_id]
            if self.cache.publish(block_id):
                request.held_block_ids.append(block_id)
                request.num_private_blocks -= 1

    def _release(self, request: SimRequest) -> None:
        for block_id in request.block_ids[request.num_computed_tokens // self._settings.block_size :]:
            if self._computing.get(block_id) is request:
                del self._computing[block_id]
        self.cache.release(request.held_block_ids, request.num_private_blocks)
        request.held_block_ids, request.num_private_blocks = [], 0


def _importance(request: SimRequest) -> tuple[bool, int, int]:
    """Who is preempted first (the smallest): as `places.least_important`."""
    return (request.num_preemptions >= MAX_PREEMPTIONS, request.num_computed_tokens, -request.number)
