"""A step in the making: collects what each request is to compute and counts it against the token budget.

Made by `scheduler` for each step. Invariant: the tokens of a step never exceed its budget.
"""

from collections.abc import Sequence

from engine_core.outputs import NewRequestData, RequestKey, ScheduledRequest, SchedulerOutput
from engine_core.request import Request
from ipc.messages import RequestClass


class StepBuilder:
    """One step."""

    def __init__(self, token_budget: int) -> None:
        self.token_budget = token_budget
        """Tokens that are left."""
        self.has_preempted = False
        """Who was preempted must not come back in this step: only those for whom it was done are admitted."""
        self.is_online_waiting_for_room = False
        """An online request that could run does not fit."""
        self.is_batch_short = False
        """What batch adds must end soon, since online requests come."""
        self.num_decodes = 0
        self.num_draft_tokens = 0
        self.num_prefill_tokens = 0
        self.num_online_prefill_tokens = 0
        self.num_batch_prefill_tokens = 0
        self._new_requests: list[NewRequestData] = []
        self._scheduled: list[ScheduledRequest] = []

    @property
    def scheduled(self) -> Sequence[ScheduledRequest]:
        """What was added so far."""
        return self._scheduled

    def add_new(self, request: Request, block_ids: tuple[int, ...]) -> None:
        """A request that the runner does not have; its tokens are added with `add_prefill`."""
        self._new_requests.append(
            NewRequestData(
                key=request.key,
                token_ids=tuple(request.token_ids),
                num_prompt_tokens=request.num_prompt_tokens,
                sampling_params=request.sampling_params,
                task=request.task,
                block_ids=block_ids,
                grammar=request.grammar,
                adapter=request.adapter,
            )
        )

    def add_decode(self, request: Request, new_block_ids: tuple[int, ...]) -> None:
        """Compute the one token that is left."""
        self._scheduled.append(ScheduledRequest(request.key, request.num_computed_tokens, 1, new_block_ids, True))
        self.token_budget -= 1
        self.num_decodes += 1

    def add_prefill(self, request: Request, num_tokens: int) -> None:
        """Compute the next so many tokens, for which the request has its blocks."""
        first = request.num_computed_tokens
        is_last_chunk = first + num_tokens == request.num_tokens
        self._scheduled.append(ScheduledRequest(request.key, first, num_tokens, (), is_last_chunk))
        self.token_budget -= num_tokens
        self.num_prefill_tokens += num_tokens
        if request.request_class is RequestClass.ONLINE:
            self.num_online_prefill_tokens += num_tokens
        else:
            self.num_batch_prefill_tokens += num_tokens

    def add_draft(self, index: int, draft_token_ids: tuple[int, ...], new_block_ids: tuple[int, ...]) -> None:
        """Let the decode at this index of `scheduled` compute draft tokens too."""
        item, count = self._scheduled[index], len(draft_token_ids)
        self._scheduled[index] = ScheduledRequest(
            key=item.key,
            num_computed_tokens=item.num_computed_tokens,
            num_scheduled_tokens=item.num_scheduled_tokens + count,
            new_block_ids=item.new_block_ids + new_block_ids,
            is_last_chunk=True,
            draft_token_ids=draft_token_ids,
        )
        self.token_budget -= count
        self.num_draft_tokens += count

    def build(self, step: int, dropped_request_keys: list[RequestKey]) -> SchedulerOutput:
        """The finished step."""
        assert self.token_budget >= 0, f"step {step} computes more tokens than the budget has"
        return SchedulerOutput(
            step=step,
            new_requests=tuple(self._new_requests),
            scheduled=tuple(self._scheduled),
            dropped_request_keys=tuple(dropped_request_keys),
        )
