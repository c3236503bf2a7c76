import pytest

from engine_core.request import RequestStatus
from engine_core.scheduler.prefill_budget import BESIDE_ONLINE_TARGET_S
from engine_core.scheduler.scheduler import LOOK_AHEAD, MAX_TIMES_SKIPPED
from ipc.errors import ConfigError
from ipc.messages import RequestClass
from tests.engine_core.scheduler.simulation import Simulation
from tests.factories import BLOCK_SIZE, make_kv_cache, make_params, make_request, make_scheduler

LONG = make_params(max_tokens=10_000)


def step(scheduler, requests):
    """Schedule one step and sample a token for each complete request; returns (key, tokens) in order."""
    plan = scheduler.schedule()
    by_key = {request.key: request for request in requests}
    for item in plan.scheduled:
        if item.is_last_chunk:
            by_key[item.key].append_output_token(1, 0.0)
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
    first, second = add(scheduler, *make_distinct_requests(3, 3))
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
    requests = add(scheduler, *(make_request([number] * 25) for number in range(4)))
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
                request.append_output_token(1, 0.0)
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


# --- who is preempted when blocks run out ---


def run_until_preemption(simulation, requests, max_steps=200):
    for _ in range(max_steps):
        simulation.step()
        preempted = [number for number, request in enumerate(requests) if request.num_preemptions]
        if preempted:
            return preempted
    raise AssertionError("nothing was preempted")


def test_batch_is_preempted_before_online():
    simulation = Simulation(num_blocks=5, max_num_seqs=2)
    batch = make_request([1] * (2 * BLOCK_SIZE), request_class=RequestClass.BATCH, sampling_params=LONG)
    online = make_request([2] * BLOCK_SIZE, sampling_params=LONG)
    assert run_until_preemption(simulation, simulation.add(batch, online)) == [0]


def test_a_request_that_was_preempted_twice_is_spared():
    simulation = Simulation(num_blocks=4, max_num_seqs=2)
    long, short = make_request([1] * (2 * BLOCK_SIZE), sampling_params=LONG), make_request([2] * BLOCK_SIZE)
    short.num_preemptions = 2
    simulation.add(long, short)
    while not long.num_preemptions:
        simulation.step()
    assert short.num_preemptions == 2


def test_nobody_is_admitted_in_the_step_of_a_preemption():
    simulation = Simulation(num_blocks=4, max_num_seqs=3)
    long, short = make_request([1] * (2 * BLOCK_SIZE), sampling_params=LONG), make_request([2] * BLOCK_SIZE)
    simulation.add(long, short)
    while not short.num_preemptions:
        simulation.add(make_request([3])) if simulation.kv_cache.num_free_blocks == 0 else None
        plan = simulation.step()
    assert plan.new_requests == ()


def test_a_preempted_request_comes_back_only_with_room_to_grow():
    simulation = Simulation(num_blocks=8, max_num_seqs=4)
    running = simulation.add(*(make_request([number] * 20, sampling_params=LONG) for number in range(2)))
    simulation.step()
    fresh = make_request([7] * (3 * BLOCK_SIZE), status=RequestStatus.WAITING)
    assert simulation.kv_cache.can_admit(fresh, simulation.scheduler._num_spare_blocks(fresh))
    fresh.status = RequestStatus.PREEMPTED
    assert not simulation.kv_cache.can_admit(fresh, simulation.scheduler._num_spare_blocks(fresh))
    assert len(running) == 2


# --- fair shares ---


def test_the_few_requests_of_a_small_flow_are_not_behind_the_many_of_a_large_one():
    simulation = Simulation(num_blocks=256, max_num_seqs=4)
    large = [make_request([number] * 20, flow="large") for number in range(60)]
    small = [make_request([100 + number] * 20, flow="small") for number in range(4)]
    simulation.add(*large, *small)
    while any(request.times.first_scheduled_at is None for request in small):
        simulation.step()
    assert len(simulation.admissions) <= 10


def test_a_flow_that_comes_late_gets_its_share_of_seats_at_once():
    simulation = Simulation(num_blocks=256, max_num_seqs=8)
    first = simulation.add(*(make_request([number], flow="first", sampling_params=LONG) for number in range(20)))
    simulation.step()
    late = simulation.add(*(make_request([50 + number], flow="late", sampling_params=LONG) for number in range(20)))
    simulation.step()
    assert (simulation.num_running(first), simulation.num_running(late)) == (4, 4)
    for _ in range(100):
        simulation.step()
    assert simulation.scheduler.num_fairness_preemptions == 4


def test_the_request_that_gives_up_its_seat_is_the_one_with_the_least_to_lose():
    simulation = Simulation(num_blocks=256, max_num_seqs=2)
    long, short = simulation.add(*(make_request([n] * n, flow="a", sampling_params=LONG) for n in (40, 5)))
    simulation.step()
    simulation.add(make_request([9], flow="b"))
    simulation.step()
    assert (long.num_preemptions, short.num_preemptions) == (0, 1)


def test_a_flow_that_fills_the_cache_makes_room_for_another():
    simulation = Simulation(num_blocks=8, max_num_seqs=8)
    first = simulation.add(*(make_request([number] * 20, flow="a", sampling_params=LONG) for number in range(8)))
    simulation.step()
    simulation.step()
    [late] = simulation.add(make_request([50] * 40, flow="b"))
    while late.times.first_scheduled_at is None:
        simulation.step()
    assert simulation.scheduler.num_fairness_preemptions <= 2
    assert all(request.num_output_tokens < 10 for request in first)


def test_where_the_largest_flow_can_give_nothing_the_next_one_does():
    simulation = Simulation(num_blocks=256, max_num_seqs=7)
    spared = [make_request([n], flow="a", sampling_params=LONG, num_preemptions=2) for n in range(4)]
    others = [make_request([n], flow="b", sampling_params=LONG) for n in range(3)]
    simulation.add(*spared, *others)
    simulation.step()
    [late] = simulation.add(make_request([9], flow="c"))
    simulation.step()
    assert late.status is RequestStatus.RUNNING
    assert simulation.num_running(others) == 2


def test_a_single_seat_is_not_fought_over():
    simulation = Simulation(max_num_seqs=1)
    simulation.add(make_request([1], flow="a"), make_request([2], flow="b"), make_request([3], flow="c"))
    simulation.run(max_steps=100)
    assert simulation.scheduler.num_preemptions == 0


@pytest.mark.parametrize("batch_share", [0.1, 0.3])
def test_batch_keeps_its_share_of_the_tokens_under_online_saturation(batch_share):
    simulation = Simulation(num_blocks=1024, max_num_seqs=16, max_num_batched_tokens=128, batch_share=batch_share)
    params = make_params(max_tokens=20)

    def make_many(request_class):
        return [
            make_request([number, request_class] * 10, request_class=request_class, sampling_params=params)
            for number in range(600)
        ]

    online, batch = simulation.add(*make_many(RequestClass.ONLINE)), simulation.add(*make_many(RequestClass.BATCH))
    for _ in range(500):
        simulation.step()
    assert simulation.scheduler.load.num_waiting > 100
    share = simulation.served(batch) / simulation.served([*online, *batch])
    assert share == pytest.approx(batch_share, abs=0.03)


def test_batch_has_everything_while_online_is_idle():
    simulation = Simulation(max_num_seqs=8)
    batch = [make_request([number], request_class=RequestClass.BATCH) for number in range(8)]
    simulation.add(*batch)
    assert len(simulation.step().scheduled) == 8


def test_batch_is_left_out_of_a_step_that_computes_an_online_prompt():
    simulation = Simulation()
    [batch] = simulation.add(make_request([1], request_class=RequestClass.BATCH, sampling_params=LONG))
    simulation.step()
    [online] = simulation.add(make_request(30))
    assert [item.key for item in simulation.step().scheduled] == [online.key]
    assert {item.key for item in simulation.step().scheduled} == {online.key, batch.key}


def test_a_job_has_short_steps_while_online_requests_come():
    simulation = Simulation(max_num_seqs=64, num_blocks=256)
    batch = simulation.add(*make_batch(64, sampling_params=LONG))
    for _ in range(8):
        plan = simulation.step(seconds=2 * BESIDE_ONLINE_TARGET_S)
    assert len(plan.scheduled) == 64
    simulation.abort(batch[0])
    simulation.add(make_request(4, sampling_params=LONG))
    simulation.step()  # the prompt
    plans = [simulation.step(seconds=BESIDE_ONLINE_TARGET_S) for _ in range(4)]
    assert all(len(plan.scheduled) < 40 for plan in plans)
    assert {item.key for plan in plans for item in plan.scheduled} == set(simulation.requests)


def make_batch(count, length=1, **fields):
    fields = {"sampling_params": LONG, **fields}
    return [make_request([100 + n] * length, request_class=RequestClass.BATCH, **fields) for n in range(count)]


def test_online_takes_the_only_seat_of_batch_at_once():
    simulation = Simulation(num_blocks=256, max_num_seqs=1, max_num_batched_tokens=256)
    [batch] = simulation.add(*make_batch(1, length=200))
    simulation.step()
    [online] = simulation.add(make_request(10))
    assert [item.key for item in simulation.step().scheduled] == [online.key]
    assert batch.status is RequestStatus.PREEMPTED


def test_online_takes_as_many_blocks_of_batch_as_it_needs():
    simulation = Simulation(num_blocks=8, max_num_seqs=8, max_num_batched_tokens=8 * BLOCK_SIZE)
    batch = simulation.add(*make_batch(4, length=BLOCK_SIZE + 4))
    simulation.step()
    [online] = simulation.add(make_request([1] * (3 * BLOCK_SIZE)))
    simulation.step()
    assert online.status is RequestStatus.RUNNING
    assert simulation.num_running(batch) == 1


def test_batch_keeps_its_share_of_the_seats():
    simulation = Simulation(num_blocks=256, max_num_seqs=8, batch_share=0.25)
    batch = simulation.add(*make_batch(8))
    simulation.step()
    simulation.add(*(make_request([n], sampling_params=LONG) for n in range(20)))
    simulation.step()
    assert simulation.num_running(batch) == 2


@pytest.mark.parametrize("has_free_seats", [True, False])
def test_a_large_batch_request_takes_nothing_from_online(has_free_seats):
    simulation = Simulation(num_blocks=8, max_num_seqs=4 if has_free_seats else 2)
    online = simulation.add(*(make_request([n] * 20, sampling_params=make_params(max_tokens=28)) for n in range(2)))
    simulation.step()
    [batch] = simulation.add(*make_batch(1, length=7 * BLOCK_SIZE, sampling_params=make_params(max_tokens=1)))
    while any(request.status is not RequestStatus.FINISHED for request in online):
        simulation.step()
        assert batch.status is RequestStatus.WAITING
    simulation.run(max_steps=20)
    assert simulation.scheduler.num_preemptions == 0


def test_a_batch_request_without_a_block_is_preempted_and_not_online():
    simulation = Simulation(num_blocks=4, max_num_seqs=2)
    online = make_request([2] * (2 * BLOCK_SIZE - 2), sampling_params=make_params(max_tokens=BLOCK_SIZE))
    simulation.add(online, *make_batch(1, length=BLOCK_SIZE))
    while not simulation.scheduler.num_preemptions:
        simulation.step()
    assert online.num_preemptions == 0


def test_batch_takes_no_blocks_that_an_online_request_waits_for():
    simulation = Simulation(num_blocks=8, max_num_seqs=4)
    simulation.add(*make_batch(1, length=60, sampling_params=make_params(max_tokens=1)))
    simulation.step()  # batch had its share
    running, large = make_request([1] * 60, sampling_params=LONG), make_request([2] * (6 * BLOCK_SIZE))
    simulation.add(running)
    simulation.step()
    [batch] = simulation.add(large, *make_batch(1))[1:]
    simulation.step()
    assert (large.status, batch.status) == (RequestStatus.WAITING, RequestStatus.WAITING)


def test_endless_online_requests_do_not_starve_a_batch_request_that_needs_most_of_the_cache():
    simulation = Simulation(num_blocks=8, max_num_seqs=4, batch_share=0.5)
    [batch] = simulation.add(*make_batch(1, length=6 * BLOCK_SIZE, sampling_params=make_params(max_tokens=2)))
    for number in range(500):
        if simulation.scheduler.load.num_waiting < 5:
            simulation.add(make_request([number] * 20, sampling_params=make_params(max_tokens=8)))
        simulation.step()
        if batch.status is RequestStatus.FINISHED:
            return
    raise AssertionError("it never ran")


def test_a_light_online_load_owes_batch_nothing():
    simulation = Simulation(num_blocks=256, max_num_seqs=4)
    simulation.add(*make_batch(8))
    for number in range(30):
        for _ in range(10):
            simulation.step()
        [online] = simulation.add(make_request([number] * 20, sampling_params=make_params(max_tokens=2)))
        simulation.step()
        assert online.times.first_scheduled_at is not None
        assert not simulation.scheduler._batch_share.is_owed


def test_classes_that_are_both_saturated_seldom_preempt_each_other():
    simulation = Simulation(num_blocks=1024, max_num_seqs=8, batch_share=0.2, max_num_batched_tokens=128)
    params = make_params(max_tokens=20)
    batch = simulation.add(*make_batch(300, length=20, sampling_params=params))
    simulation.add(*(make_request([n] * 20, sampling_params=params) for n in range(300)))
    for _ in range(400):
        simulation.step()
    num_started = sum(request.times.first_scheduled_at is not None for request in batch)
    assert simulation.scheduler.num_preemptions <= num_started / 10


def test_when_blocks_run_out_the_least_important_request_goes_first():
    simulation = Simulation(num_blocks=4, max_num_seqs=2)
    long = make_request([1] * (2 * BLOCK_SIZE), sampling_params=LONG, priority=1)
    short = make_request([2] * BLOCK_SIZE, sampling_params=LONG, priority=0)
    assert run_until_preemption(simulation, simulation.add(long, short)) == [0]


# --- prompts beside decodes ---


def test_the_budget_grows_back_while_others_wait():
    simulation = Simulation(num_blocks=1024, max_num_batched_tokens=512, step_time_target=0.1, max_num_seqs=3)
    simulation.add(make_request([1], sampling_params=LONG))
    simulation.step()
    simulation.add(*(make_request([n] * 10_000) for n in range(2, 5)))
    simulation.step(seconds=1.0)
    shrunk = simulation.scheduler.num_prefill_budget_tokens(1)
    for _ in range(20):
        simulation.step(seconds=0.01)
    assert simulation.scheduler.num_prefill_budget_tokens(1) > 2 * shrunk


def test_slow_steps_shrink_the_prompts_beside_decodes():
    simulation = Simulation(num_blocks=256, max_num_batched_tokens=512, step_time_target=0.1)
    simulation.add(make_request([1], sampling_params=LONG))
    simulation.step(seconds=0.0001)  # one prompt token
    [prompt] = simulation.add(make_request([2] * 3000))
    sizes = [simulation.tokens_of(simulation.step(seconds=0.4), prompt.key) for _ in range(10)]
    assert sizes[0] > 2 * sizes[-1]


def test_alone_a_prompt_has_the_whole_step():
    simulation = Simulation(num_blocks=256, max_num_batched_tokens=512, step_time_target=0.1)
    simulation.add(make_request([1], sampling_params=make_params(max_tokens=2)))
    simulation.step()
    simulation.add(make_request([2] * 500))
    simulation.step(seconds=10.0)
    assert simulation.scheduler.num_prefill_budget_tokens(1) < 100
    simulation.run(max_steps=100)
    [prompt] = simulation.add(make_request([3] * 500))
    assert simulation.tokens_of(simulation.step(), prompt.key) == 500


def test_a_short_prompt_starts_beside_a_long_one():
    simulation = Simulation(num_blocks=256, max_num_batched_tokens=128)
    long, short = simulation.add(make_request([1] * 1000, flow="a"), make_request([2] * 10, flow="b"))
    plan = simulation.step()
    assert [simulation.tokens_of(plan, request.key) for request in (long, short)] == [64, 10]


# --- a prefix that another request is computing ---


def test_siblings_compute_a_prompt_of_several_chunks_once():
    simulation = Simulation(num_blocks=256, max_prefill_chunk=32)
    prompt = list(range(200))
    siblings = simulation.add(*(make_request(prompt) for _ in range(4)))
    simulation.run(max_steps=100)
    num_rest = 200 % BLOCK_SIZE
    num_decodes = 4 * (siblings[0].sampling_params.max_tokens - 1)
    assert simulation.served(siblings) == 200 + 3 * num_rest + num_decodes
    assert [request.num_cached_tokens for request in siblings] == [0, 192, 192, 192]


def test_who_waits_for_a_prefix_does_not_hold_up_others():
    simulation = Simulation(num_blocks=256, max_prefill_chunk=32)
    first, second, other = simulation.add(make_request(200), make_request(200), make_request([7] * 20))
    assert [item.key for item in simulation.step().scheduled] == [first.key, other.key]
    assert second.num_times_skipped == 0


@pytest.mark.parametrize("is_trusted", [True, False])
def test_when_the_request_that_computes_a_prefix_goes_away_the_next_one_does_it(is_trusted):
    simulation = Simulation(num_blocks=256, max_prefill_chunk=32)
    first, second = simulation.add(make_request(200), make_request(200))
    simulation.step()
    del simulation.requests[first.key]
    simulation.scheduler.finish(first, is_trusted=is_trusted)
    assert [item.key for item in simulation.step().scheduled] == [second.key]
    simulation.run(max_steps=100)


def test_online_does_not_wait_for_a_prefix_that_batch_computes():
    simulation = Simulation(num_blocks=256, max_prefill_chunk=32)
    batch, other = simulation.add(
        make_request(200, request_class=RequestClass.BATCH), make_request(200, request_class=RequestClass.BATCH)
    )
    simulation.step()
    [online] = simulation.add(make_request(200))
    assert online.key in {item.key for item in simulation.step().scheduled}
    assert (batch.status, other.status) == (RequestStatus.RUNNING, RequestStatus.WAITING)
