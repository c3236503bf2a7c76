"""Drafts in steps: the decodes of a step get draft tokens from what the step and the cache have left.

Called by `scheduler` when everything else of a step is planned, so a draft takes tokens and blocks from nobody and
preempts nobody: a new block is used only while nobody waits for blocks and each running request could get one too.
Invariant: a draft ends before the request's last possible token, and no feature of a request that is drafted needs
more than the logits of a row. What was rejected leaves nothing: `num_computed_tokens` counts accepted tokens, and
slots behind them are written again. Next: `engine_core/speculation/drafter.py`.
"""

from collections.abc import Iterable
from typing import Self

from engine_core.kv_cache.kv_cache_manager import KVCacheManager
from engine_core.request import Request
from engine_core.scheduler.step_builder import StepBuilder
from engine_core.speculation.drafter import Drafter
from engine_core.speculation.step_times import StepTimes
from ipc.config import SchedulerConfig
from ipc.messages import Task


class Drafts:
    """Speculation for all requests of a scheduler."""

    def __init__(self, config: SchedulerConfig, kv_cache: KVCacheManager, max_model_len: int) -> None:
        self._max_tokens = config.speculative_tokens
        self._max_batch = config.speculative_max_batch
        self._kv_cache = kv_cache
        self._max_model_len = max_model_len
        self._times = StepTimes()
        self._row_cost = 0.0
        """Of the last step."""
        self.num_drafts = 0
        self.num_draft_tokens = 0
        self.num_accepted_tokens = 0

    @classmethod
    def of(cls, config: SchedulerConfig, kv_cache: KVCacheManager, max_model_len: int) -> Self | None:
        """None where speculation is off."""
        return cls(config, kv_cache, max_model_len) if config.speculative == "ngram" else None

    def add_to(self, step: StepBuilder, running: Iterable[Request], num_running: int, *, may_take_blocks: bool) -> None:
        """Add drafts to the decodes of a planned step; `running` are all running requests."""
        if num_running > self._max_batch:
            return
        row_cost = self._cost_of_row(step.num_decodes, self._max_tokens)
        requests = {request.key: request for request in running}
        for index, item in enumerate(step.scheduled):
            request = requests[item.key]
            if item.num_scheduled_tokens > 1 or not item.is_last_chunk or not _can_be_drafted(request):
                continue
            spare = self._kv_cache.num_free_blocks - num_running if may_take_blocks else 0
            max_tokens = min(self._limit(request), step.token_budget, self._kv_cache.num_free_slots(request, spare))
            if max_tokens < 1:
                continue
            if request.drafter is None:
                request.drafter = Drafter(request.num_tokens)
            draft = request.drafter.propose(request.token_ids, max_tokens, row_cost)
            if draft:
                step.add_draft(index, tuple(draft), self._kv_cache.extend(request, len(draft)))

    def observe_step(self, step: StepBuilder, seconds: float) -> None:
        """Learn how long a step took."""
        if step.num_prefill_tokens == 0:
            self._times.observe(step.num_decodes + step.num_draft_tokens, seconds)
        if step.num_draft_tokens:
            self._row_cost = self._cost_of_row(step.num_decodes, step.num_draft_tokens)

    def observe_draft(self, request: Request, num_drafted: int, num_accepted: int) -> None:
        """So many tokens of a request's draft in the last observed step were right."""
        assert request.drafter is not None
        request.drafter.observe(num_accepted, self._row_cost * num_drafted)
        self.num_drafts += 1
        self.num_draft_tokens += num_drafted
        self.num_accepted_tokens += num_accepted

    def _cost_of_row(self, num_decodes: int, num_draft_tokens: int) -> float:
        """Tokens that each of so many draft tokens costs.

        A step that is longer by a share of its time costs each of its decodes that share of a token.
        """
        return self._times.growth(num_decodes, num_draft_tokens) * num_decodes / num_draft_tokens

    def _limit(self, request: Request) -> int:
        """Most draft tokens: with one token more, which the last row gives, the request may be complete."""
        num_left = request.sampling_params.max_tokens - request.num_output_tokens
        return min(self._max_tokens, num_left - 1, self._max_model_len - request.num_tokens - 1)


def _can_be_drafted(request: Request) -> bool:
    """False before the first token, and where a row needs the tokens before it, or gives more than a token."""
    params = request.sampling_params
    return (
        request.task is Task.GENERATE
        and request.num_output_tokens >= max(1, params.min_tokens)
        and not params.structured_output
        and params.num_logprobs < 0
        and not params.has_penalties
        and not params.bad_words_token_ids
    )
