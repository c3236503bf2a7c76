"""Models that must see a prompt whole: who is admitted is computed in that step, and nobody waits without end.

That prompts of other models are cut is shown by `test_scheduler.py` and `test_prefill_budget.py`.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc.messages import RequestClass, Task
from tests.factories import make_kv_cache, make_request, make_scheduler

MAX_TOKENS = 64


def make_whole(**settings):
    """A scheduler of an encoder, which has no KV cache."""
    kv_cache = make_kv_cache(num_blocks=0, enable_prefix_caching=False)
    return make_scheduler(kv_cache, has_whole_prompts=True, max_num_batched_tokens=MAX_TOKENS, **settings)


def add(scheduler, *sizes, **fields):
    requests = [make_request(size, task=Task.EMBED, **fields) for size in sizes]
    for request in requests:
        scheduler.add(request)
    return {request.key: request for request in requests}


def step(scheduler, requests, seconds=0.0):
    """Tokens of each request in one step; all of them are whole, and end."""
    plan = scheduler.schedule()
    assert [new.key for new in plan.new_requests] == [item.key for item in plan.scheduled]
    scheduler.observe_step(seconds)
    for item in plan.scheduled:
        request = requests.pop(item.key)
        assert item.is_last_chunk
        assert (item.num_computed_tokens, item.num_scheduled_tokens) == (0, request.num_tokens)
        scheduler.finish(request)
    return [item.num_scheduled_tokens for item in plan.scheduled]


def test_prompts_are_not_cut_while_others_wait():
    scheduler = make_whole(max_prefill_chunk=16)
    requests = add(scheduler, 30, 30)
    assert step(scheduler, requests) == [30, 30]


def test_a_prompt_that_the_step_has_no_room_for_waits_for_the_next():
    scheduler = make_whole()
    requests = add(scheduler, 40, 25, 3)
    assert step(scheduler, requests) == [40]
    assert step(scheduler, requests) == [25, 3]


def test_a_step_takes_the_longest_prompt_however_slow_it_is():
    scheduler = make_whole()
    requests = add(scheduler, MAX_TOKENS, MAX_TOKENS, 1)
    assert step(scheduler, requests, seconds=60) == [MAX_TOKENS]
    assert step(scheduler, requests, seconds=60) == [MAX_TOKENS]
    assert step(scheduler, requests) == [1]


def test_many_short_prompts_are_one_step():
    scheduler = make_whole(max_num_seqs=64)
    assert step(scheduler, add(scheduler, *[2] * 32)) == [2] * 32


def test_many_short_prompts_are_one_step_however_slow_those_before_were():
    scheduler = make_whole(max_num_seqs=64)
    requests = add(scheduler, *[2] * 70)
    assert step(scheduler, requests, seconds=60) == [2] * 32
    assert step(scheduler, requests, seconds=60) == [2] * 32


def test_a_suspect_is_computed_alone():
    scheduler = make_whole()
    requests = add(scheduler, 5, 7)
    alone = list(requests.values())[1]
    plan = scheduler.schedule(alone)
    assert [(item.key, item.num_scheduled_tokens) for item in plan.scheduled] == [(alone.key, 7)]


@pytest.mark.parametrize("policy", ["fcfs", "priority", "memory_aware"])
@given(
    online=st.lists(st.integers(1, MAX_TOKENS), max_size=20),
    batch=st.lists(st.integers(1, MAX_TOKENS), max_size=20),
    seconds=st.lists(st.floats(0, 1), min_size=40, max_size=40),
)
def test_all_of_both_classes_end_within_a_step_each(policy, online, batch, seconds):
    scheduler = make_whole(scheduling_policy=policy)
    requests = add(scheduler, *online, flow="a") | add(scheduler, *batch, request_class=RequestClass.BATCH, flow="b")
    for step_s in seconds:
        if requests:
            assert step(scheduler, requests, step_s)
    assert not scheduler.has_requests
