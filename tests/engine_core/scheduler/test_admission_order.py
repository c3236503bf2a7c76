import pytest

from engine_core.request import RequestStatus
from engine_core.scheduler.admission_order import admission_order
from ipc.config import SchedulerConfig
from ipc.messages import Task
from tests.factories import make_params, make_request

CACHE_TOKENS = 1000


def in_order(policy, *requests, ageing=10.0):
    config = SchedulerConfig(scheduling_policy=policy, priority_ageing=ageing)
    return sorted(requests, key=admission_order(config, CACHE_TOKENS))


@pytest.mark.parametrize("policy", ["fcfs", "priority", "memory_aware"])
def test_equal_requests_come_in_order_of_arrival(policy):
    early, late = make_request(arrived_at=1.0), make_request(arrived_at=2.0)
    assert in_order(policy, late, early) == [early, late]


@pytest.mark.parametrize("policy", ["fcfs", "priority", "memory_aware"])
def test_a_preempted_request_comes_first(policy):
    waiting = make_request(arrived_at=1.0, priority=-5)
    preempted = make_request(900, arrived_at=2.0, status=RequestStatus.PREEMPTED)
    assert in_order(policy, waiting, preempted) == [preempted, waiting]


def test_a_lower_priority_number_comes_first():
    normal, urgent = make_request(arrived_at=1.0), make_request(arrived_at=2.0, priority=-1)
    assert in_order("priority", normal, urgent) == [urgent, normal]


@pytest.mark.parametrize(("wait_s", "is_passed"), [(19.9, True), (20.1, False)])
def test_waiting_makes_up_for_priority(wait_s, is_passed):
    old, urgent = make_request(arrived_at=0.0, priority=2), make_request(arrived_at=wait_s)
    assert in_order("priority", old, urgent) == ([urgent, old] if is_passed else [old, urgent])


def test_fcfs_knows_no_priority():
    early, urgent = make_request(), make_request(priority=-9)
    assert in_order("fcfs", urgent, early) == [early, urgent]


def test_memory_aware_prefers_the_smaller_need_of_a_whole_life():
    long_answer = make_request(10, arrived_at=0.0, sampling_params=make_params(max_tokens=900))
    long_prompt = make_request(500, arrived_at=0.0, sampling_params=make_params(max_tokens=1))
    embedding = make_request(100, arrived_at=0.0, task=Task.EMBED, sampling_params=make_params(max_tokens=900))
    assert in_order("memory_aware", long_answer, long_prompt, embedding) == [embedding, long_prompt, long_answer]


@pytest.mark.parametrize(("wait_s", "is_passed"), [(99.0, True), (101.0, False)])
def test_with_memory_aware_a_large_request_is_passed_only_for_some_time(wait_s, is_passed):
    large = make_request(10, arrived_at=0.0, sampling_params=make_params(max_tokens=10**9))
    small = make_request(1, arrived_at=wait_s, sampling_params=make_params(max_tokens=1))
    assert in_order("memory_aware", large, small) == ([small, large] if is_passed else [large, small])
