"""How many prompt tokens of a request a step computes.

Asked by `scheduler` for each request that has prompt tokens left, running or about to be admitted. Chunks shrink to
what the step's decodes bear (`PrefillBudget`) and to what is fair to others; a model that must see a prompt whole gets
it whole, in the first step that has room for it. Invariant: a step of whole prompts has at least one, since its token
budget is no smaller than the longest prompt (`memory_plan.plan_encoder_memory`).
"""

from engine_core.request import Request
from engine_core.scheduler.fair_queue import FairQueue
from engine_core.scheduler.prefill_budget import MIN_TOKENS, PrefillBudget
from engine_core.scheduler.step_builder import StepBuilder
from ipc.config import SchedulerConfig
from ipc.messages import RequestClass

MIN_WHOLE_TOKENS = 512
"""Where prompts are whole, a step takes so many tokens at least, if it may have as many: there are no decodes that it
would hold up, and many small steps take longer than a large one."""


class PrefillChunks:
    """The sizes of chunks."""

    def __init__(self, config: SchedulerConfig, queue: FairQueue, *, are_whole: bool) -> None:
        """`are_whole`: a prompt is one chunk."""
        self._config = config
        self._queue = queue
        self._are_whole = are_whole
        self._budget = PrefillBudget(config.max_num_batched_tokens, config.step_time_target)

    def num_budget_tokens(self, num_decodes: int) -> int:
        """Prompt tokens that a step with so many decodes may compute now."""
        return self._budget.num_tokens(num_decodes)

    def num_decodes_beside_online(self, num_decodes: int) -> int:
        """How many of so many decodes a step with batch requests may compute while online requests come."""
        return self._budget.num_decodes_beside_online(num_decodes)

    def observe(self, seconds: float, step: StepBuilder) -> None:
        """A step took so long."""
        self._budget.observe(seconds, step.num_prefill_tokens, step.num_decodes)

    def has_room(self, step: StepBuilder, request: Request) -> bool:
        """True where the step can take at least the smallest chunk of a waiting request."""
        return self._num_tokens_left(step, request) >= (request.num_tokens if self._are_whole else 1)

    def num_tokens(self, step: StepBuilder, request: Request) -> int:
        """Tokens of the next chunk of a request, for which it has its blocks; 0 where it is not in this step."""
        num_missing = request.num_tokens - request.num_computed_tokens
        if self._are_whole:
            return num_missing if num_missing <= step.token_budget else 0
        num_wanted = min(num_missing, step.token_budget)
        if self._queue.num_running + self._queue.num_waiting > 1:
            num_wanted = min(num_wanted, self._config.max_prefill_chunk)
        num_tokens = min(num_wanted, self._num_tokens_left(step, request))
        if self._queue.num_waiting and self._num_free_seats > 0:  # leave something for a short prompt behind a long one
            num_tokens = min(num_tokens, max(MIN_TOKENS, self._num_step_tokens(step) // 2))
        return num_tokens

    @property
    def _num_free_seats(self) -> int:
        return self._config.max_num_seqs - self._queue.num_running

    def _num_tokens_left(self, step: StepBuilder, request: Request) -> int:
        """Prompt tokens that the step may still compute, for a request of this class.

        Alone, an online request holds up nobody and has the whole step; batch keeps to the budget always, since an
        online request may come at any moment. The first of a step of whole prompts has the whole step too.
        """
        if self._are_whole and not step.num_prefill_tokens:
            return step.token_budget
        if request.request_class is RequestClass.BATCH or self._queue.num_running + self._queue.num_waiting > 1:
            return max(0, min(step.token_budget, self._num_step_tokens(step) - step.num_prefill_tokens))
        return step.token_budget

    def _num_step_tokens(self, step: StepBuilder) -> int:
        """Prompt tokens that the whole step may compute beside its decodes."""
        if step.is_batch_short and not self._are_whole:
            return self._budget.num_tokens_beside_online(step.num_decodes)
        num_prompts = 1 + min(self._queue.num_waiting, self._num_free_seats)
        num_tokens = self._budget.num_tokens(step.num_decodes, num_prompts)
        return max(num_tokens, MIN_WHOLE_TOKENS) if self._are_whole else num_tokens
