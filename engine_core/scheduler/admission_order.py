"""The order in which the waiting requests of one flow should be admitted, as a static sort key.

Next: `request_queue` keeps requests sorted by it, `fair_queue` chooses between flows.

Ageing without re-sorting: a request that waits since `arrived_at` gains one level of priority each
`priority_ageing` seconds, so at time t it stands at `priority - (t - arrived_at) / priority_ageing`. Which of two
stands lower does not depend on t, so `arrived_at + priority * priority_ageing` orders them once and for all.
Bounded wait: a request can only be passed by those that arrive less than (difference in priority) x `priority_ageing`
seconds after it.
"""

from collections.abc import Callable

from engine_core.outputs import RequestKey
from engine_core.request import Request, RequestStatus
from ipc.config import SchedulerConfig
from ipc.messages import Task

OrderKey = tuple[bool, float, RequestKey]
AdmissionOrder = Callable[[Request], OrderKey]

LEVELS_OF_WHOLE_CACHE = 10
"""With `memory_aware`, a request that may fill the whole KV cache counts as so many levels of priority lower."""


def admission_order(config: SchedulerConfig, num_cache_tokens: int) -> AdmissionOrder:
    """The sort key of the policy, smaller first; a preempted request comes before those of its flow that never ran.

    `memory_aware` prefers the smallest need of KV cache over a request's whole life, with the same ageing as for
    priorities. `num_cache_tokens` is the size of the KV cache; without one, requests have no such need.
    """
    policy, level_s = config.scheduling_policy, config.priority_ageing

    def order(request: Request) -> OrderKey:
        static = 0.0
        if policy != "fcfs":
            static = request.times.arrived_at + request.priority * level_s
        if policy == "memory_aware" and num_cache_tokens:
            share = min(1.0, _max_tokens_of_life(request) / num_cache_tokens)
            static += share * LEVELS_OF_WHOLE_CACHE * level_s
        return (request.status is not RequestStatus.PREEMPTED, static, request.key)

    return order


def _max_tokens_of_life(request: Request) -> int:
    max_new_tokens = 0 if request.task is Task.EMBED else request.sampling_params.max_tokens
    return request.num_prompt_tokens + max_new_tokens
