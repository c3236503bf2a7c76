"""Executes a step, and where it fails finds out who is at fault, so that nobody else's answer ends.

Called by `EngineCore.step`. After an exception the requests are computed in halves, quarters, …; one that fails alone
is at fault. When memory ran out, the request with most tokens is given up and the others are tried again together.
What the runner knows of a request after a failure is not trusted: each comes again as new, with all its tokens and
blocks, and its tokens are written to the same slots.
Invariant: each request of the plan is executed whole, at fault, or restarted; only what was executed may stay in the
prefix cache. Next: `model/input_batch.py`, for which a request that comes again as new is a new one.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine_core.kv_cache.kv_cache_manager import KVCacheManager
from engine_core.outputs import (
    ModelRunner,
    ModelRunnerOutput,
    NewRequestData,
    RequestKey,
    ScheduledRequest,
    SchedulerOutput,
)
from engine_core.request import Request

log = logging.getLogger(__name__)

STEP_FAILED, OUT_OF_MEMORY = "step_failed", "out_of_memory"
_MIN_CHUNK_TOKENS = 64


@dataclass(slots=True)
class StepOutcome:
    """What became of a step."""

    result: ModelRunnerOutput = field(default_factory=ModelRunnerOutput)
    """Of all parts of it together."""
    executed: Sequence[ScheduledRequest] = ()
    has_failed: bool = False
    """As a whole, the first time."""
    at_fault: dict[RequestKey, str] = field(default_factory=dict)
    """Requests that must end, with the code that tells why."""
    to_restart: list[RequestKey] = field(default_factory=list)
    """Requests that must be computed from their beginning: a block that they share was not written."""


def execute_step(
    runner: ModelRunner,
    plan: SchedulerOutput,
    requests: Mapping[RequestKey, Request],
    kv_cache: KVCacheManager,
) -> StepOutcome:
    """Execute a plan as far as that is possible.

    Args:
        runner: does the work.
        plan: of the scheduler.
        requests: by key, at least those of the plan.
        kv_cache: knows their blocks.
    """
    try:
        return StepOutcome(runner.execute(plan), plan.scheduled)
    except MemoryError:
        log.exception("step %d ran out of memory", plan.step)
        code = OUT_OF_MEMORY
    except Exception:  # a step must not take other requests with it
        log.exception("step %d failed", plan.step)
        code = STEP_FAILED
    return _Retry(runner, plan, requests, kv_cache).run(code)  # out of the handler, which keeps the tensors alive


class _Retry:
    """One failed step, done once more in parts."""

    def __init__(
        self,
        runner: ModelRunner,
        plan: SchedulerOutput,
        requests: Mapping[RequestKey, Request],
        kv_cache: KVCacheManager,
    ) -> None:
        self._runner = runner
        self._plan = plan
        self._requests = requests
        self._kv_cache = kv_cache
        self._outcome = StepOutcome(has_failed=True)
        self._executed: list[ScheduledRequest] = []
        self._unwritten: set[int] = set()
        """Blocks that requests at fault should have written."""

    def run(self, code: str) -> StepOutcome:
        """Everything; `code` is how the step failed as a whole."""
        items = list(self._plan.scheduled)
        if code == OUT_OF_MEMORY and items:
            victim = max(items, key=lambda item: (item.num_scheduled_tokens, item.key))
            items.remove(victim)
            self._blame(victim, code)
        elif len(items) == 1:
            self._blame(items.pop(), code)
        # What is kept of the hidden states of a prompt is lost: from its beginning, alone. These read no shared blocks.
        for item in filter(self._is_in_the_middle, items):
            self._recompute(item)
        rest = [item for item in items if not self._is_in_the_middle(item)]
        if code == OUT_OF_MEMORY or len(rest) < len(self._plan.scheduled):
            self._execute(rest)
        else:
            self._execute_halves(rest)
        scheduled = {item.key for item in self._plan.scheduled}
        self._outcome.to_restart += [new.key for new in self._plan.new_requests if new.key not in scheduled]
        self._outcome.executed = self._executed
        return self._outcome

    def _execute_halves(self, items: list[ScheduledRequest]) -> None:
        """In the order of the plan, in which a block is written before another request shares it."""
        middle = len(items) // 2
        self._execute(items[:middle])
        self._execute(items[middle:])

    def _execute(self, items: list[ScheduledRequest]) -> None:
        for item in filter(self._reads_unwritten, items):
            self._outcome.to_restart.append(item.key)
        items = [item for item in items if not self._reads_unwritten(item)]
        if not items:
            return
        code = self._try(items)
        if not code:
            self._executed += items
        elif len(items) == 1:
            self._blame(items[0], code)
        else:
            self._execute_halves(items)

    def _recompute(self, item: ScheduledRequest) -> None:
        """All tokens of a request up to the end of its chunk, in chunks that are no larger than the step was."""
        end = item.num_computed_tokens + item.num_scheduled_tokens
        chunk = max(_MIN_CHUNK_TOKENS, self._plan.num_scheduled_tokens)
        for start in range(0, end, chunk):
            num_tokens = min(chunk, end - start)
            part = replace(
                item,
                num_computed_tokens=start,
                num_scheduled_tokens=num_tokens,
                is_last_chunk=item.is_last_chunk and start + num_tokens == end,
            )
            code = self._try([part], is_new=start == 0)
            if code:
                self._blame(item, code)
                return
        self._executed.append(item)

    def _try(self, items: Sequence[ScheduledRequest], *, is_new: bool = True) -> str:
        """Execute a part and keep what it gives; returns the code of its failure."""
        try:
            result = self._runner.execute(self._part(items, is_new=is_new))
        except MemoryError as error:
            log.warning("a part of step %d ran out of memory: %s", self._plan.step, error)
            return OUT_OF_MEMORY
        except Exception as error:  # noqa: BLE001 - as in `execute_step`, which has logged the trace
            log.warning("a part of step %d failed: %s: %s", self._plan.step, type(error).__name__, error)
            return STEP_FAILED
        self._outcome.result.add(result)
        return ""

    def _part(self, items: Sequence[ScheduledRequest], *, is_new: bool) -> SchedulerOutput:
        in_plan = {item.key for item in self._plan.scheduled} | {new.key for new in self._plan.new_requests}
        return SchedulerOutput(
            step=self._plan.step,
            new_requests=tuple(self._as_new(self._requests[item.key]) for item in items) if is_new else (),
            scheduled=tuple(replace(item, new_block_ids=()) for item in items),
            dropped_request_keys=tuple(key for key in self._plan.dropped_request_keys if key not in in_plan),
        )

    def _as_new(self, request: Request) -> NewRequestData:
        return NewRequestData(
            key=request.key,
            token_ids=tuple(request.token_ids),
            num_prompt_tokens=request.num_prompt_tokens,
            sampling_params=request.sampling_params,
            task=request.task,
            block_ids=self._kv_cache.block_ids(request),
            grammar=request.grammar,
            adapter=request.adapter,
        )

    def _blame(self, item: ScheduledRequest, code: str) -> None:
        self._outcome.at_fault[item.key] = code
        first_block = item.num_computed_tokens // self._kv_cache.block_size
        self._unwritten.update(self._kv_cache.block_ids(self._requests[item.key])[first_block:])

    def _reads_unwritten(self, item: ScheduledRequest) -> bool:
        return not self._unwritten.isdisjoint(self._kv_cache.block_ids(self._requests[item.key]))

    def _is_in_the_middle(self, item: ScheduledRequest) -> bool:
        """Whether the runner kept more of the request than its tokens say."""
        return item.num_computed_tokens > 0 and not self._requests[item.key].reads_prefix_cache
