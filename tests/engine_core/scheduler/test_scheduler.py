import pytest

from engine_core.scheduler.scheduler import LOOK_AHEAD, MAX_TIMES_SKIPPED
from ipc.errors import ConfigError
from tests.factories import BLOCK_SIZE, make_kv_cache, make_request, make_scheduler


def step(scheduler, requests):
    """Schedule one step and sample a token for each complete request; returns (key, tokens) in order."""
    plan = scheduler.schedule()
    by_key = {request.key: request for request in requests}
    for item in plan.scheduled:
        if item.is_last_chunk:
            by_key[item.key].append_output_token(1)
    return [(item.key, item.num_scheduled_tokens) for item in plan.scheduled]


def make_distinct_requests(*sizes):
    """Requests of so many blocks each that share no prefix."""
    return [make_request([index] * (size * BLOCK_SIZE)) for index, size in enumerate(sizes)]


def add(scheduler, *requests):
    for request in requests:
        scheduler.add(request)
    return list(requests)


def test_a_lone_prompt_is_computed_at_once():
    scheduler = make_scheduler(max_prefill_chunk=16)
    [request] = add(scheduler, make_request(60))
    assert step(scheduler, [request]) == [(request.key, 60)]


def test_a_prompt_is_cut_into_chunks_while_others_wait():
    scheduler = make_scheduler(max_prefill_chunk=16)
    first, second = add(scheduler, make_request(40), make_request(40))
    assert step(scheduler, [first, second]) == [(first.key, 16), (second.key, 16)]


def test_decodes_come_before_prefill_chunks():
    scheduler = make_scheduler()
    [old] = add(scheduler, make_request(4))
    step(scheduler, [old])
    [new] = add(scheduler, make_request(200))
    step(scheduler, [old, new])
    assert step(scheduler, [old, new]) == [(old.key, 1), (new.key, 63)]


def test_the_budget_is_never_exceeded():
    scheduler = make_scheduler(max_num_batched_tokens=32)
    requests = add(scheduler, *(make_request(25) for _ in range(4)))
    assert step(scheduler, requests) == [(requests[0].key, 25), (requests[1].key, 7)]


def test_no_more_sequences_run_than_allowed():
    scheduler = make_scheduler(max_num_seqs=2)
    requests = add(scheduler, *(make_request(3) for _ in range(3)))
    assert len(step(scheduler, requests)) == 2


def test_a_budget_below_one_token_for_each_sequence_is_refused():
    with pytest.raises(ConfigError, match="max-num-seqs"):
        make_scheduler(max_num_seqs=65)


def test_a_later_request_passes_a_head_that_does_not_fit():
    scheduler = make_scheduler(make_kv_cache(num_blocks=6))
    running, big, small = add(scheduler, *make_distinct_requests(3, 5, 1))
    keys = [key for key, _ in step(scheduler, [running, big, small])]
    assert keys == [running.key, small.key]
    assert big.num_times_skipped == 1


def test_a_head_that_was_passed_too_often_is_waited_for():
    scheduler = make_scheduler(make_kv_cache(num_blocks=6))
    running, big, small = add(scheduler, *make_distinct_requests(3, 5, 1))
    big.num_times_skipped = MAX_TIMES_SKIPPED
    assert [key for key, _ in step(scheduler, [running, big, small])] == [running.key]


def test_the_look_ahead_is_bounded():
    scheduler = make_scheduler(make_kv_cache(num_blocks=6))
    requests = add(scheduler, *make_distinct_requests(3, *[5] * LOOK_AHEAD, 1))
    assert [key for key, _ in step(scheduler, requests)] == [requests[0].key]


def test_without_blocks_the_request_with_the_least_computed_tokens_is_preempted():
    scheduler = make_scheduler(make_kv_cache(num_blocks=4), max_num_seqs=2)
    long, short = add(scheduler, make_request(2 * BLOCK_SIZE), make_request(range(500, 500 + BLOCK_SIZE)))
    for _ in range(BLOCK_SIZE + 1):
        keys = [key for key, _ in step(scheduler, [long, short])]
    assert keys == [long.key]
    assert (long.num_preemptions, short.num_preemptions) == (0, 1)
    assert short.num_computed_tokens == 0


def test_a_preempted_request_is_dropped_by_the_runner_and_comes_back_as_new():
    scheduler = make_scheduler(make_kv_cache(num_blocks=4), max_num_seqs=2)
    long, short = add(scheduler, make_request(2 * BLOCK_SIZE), make_request(range(500, 500 + BLOCK_SIZE)))
    dropped = []
    while not dropped:
        plan = scheduler.schedule()
        dropped = plan.dropped_request_keys
        for request in (long, short):
            if request.num_computed_tokens == request.num_tokens:
                request.append_output_token(1)
    assert dropped == (short.key,)
    scheduler.finish(long)
    plan = scheduler.schedule()
    assert [new.key for new in plan.new_requests] == [short.key]
    assert plan.new_requests[0].token_ids == tuple(short.token_ids)


def test_a_finished_request_is_named_to_the_runner_once():
    scheduler = make_scheduler()
    [request] = add(scheduler, make_request(3))
    step(scheduler, [request])
    scheduler.finish(request)
    assert scheduler.schedule().dropped_request_keys == (request.key,)
    assert scheduler.schedule().dropped_request_keys == ()


def test_a_waiting_request_can_be_finished():
    scheduler = make_scheduler()
    [request] = add(scheduler, make_request(3))
    scheduler.finish(request)
    assert not scheduler.has_requests


def test_the_load_is_counted():
    scheduler = make_scheduler(make_kv_cache(num_blocks=8), max_num_seqs=1)
    requests = add(scheduler, make_request(3), make_request(5))
    step(scheduler, requests)
    load = scheduler.load
    assert (load.num_running, load.num_waiting, load.num_queued_tokens) == (1, 1, 5)
    assert (load.num_free_blocks, load.num_blocks) == (7, 8)
