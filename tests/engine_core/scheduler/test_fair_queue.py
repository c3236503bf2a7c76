from unittest.mock import patch

import pytest

from engine_core.scheduler import fair_queue
from engine_core.scheduler.admission_order import admission_order
from engine_core.scheduler.fair_queue import FairQueue
from ipc.config import SchedulerConfig
from ipc.messages import RequestClass
from tests.factories import make_request

BOTH = (RequestClass.ONLINE, RequestClass.BATCH)


def make_queue(*requests, batch_share=0.1):
    queue = FairQueue(admission_order(SchedulerConfig(), 1000), batch_share)
    for request in requests:
        queue.add(request)
    return queue


def make_requests(flow, count, request_class=RequestClass.ONLINE):
    return [make_request(flow=flow, request_class=request_class) for _ in range(count)]


def serve(queue, num_requests, num_tokens=10):
    """Admit, charge and end so many requests; returns their flows."""
    flows = []
    for _ in range(num_requests):
        request = next(queue.candidates(BOTH, 1))
        queue.start(request)
        queue.charge_prefill(request, num_tokens)
        queue.stop(request)
        flows.append(request.flow)
    return "".join(flows)


def test_flows_take_turns_by_what_they_got():
    queue = make_queue(*make_requests("a", 60), *make_requests("b", 4))
    assert serve(queue, 10) == "abababab" + "aa"


def test_a_late_flow_does_not_claim_the_past():
    queue = make_queue(*make_requests("a", 20))
    serve(queue, 10)
    for request in make_requests("b", 5):
        queue.add(request)
    assert serve(queue, 8) == "abababab"


def test_to_leave_and_come_back_gains_nothing():
    queue = make_queue(*make_requests("a", 9), *make_requests("b", 1))
    assert serve(queue, 1, num_tokens=10) == "a"
    assert serve(queue, 1, num_tokens=35) == "b"
    queue.add(*make_requests("b", 1))
    assert serve(queue, 5, num_tokens=10) == "aaaba"


def test_counters_of_flows_that_left_are_bounded():
    with patch.object(fair_queue, "MAX_PAST_FLOWS", 10):
        queue = make_queue(*make_requests("crowd", 200))
        for number in range(100):
            queue.add(make_request(flow=str(number)))
            serve(queue, 2, num_tokens=number + 1)
        assert len(queue._classes[RequestClass.ONLINE].past_counters) <= 10


def test_classes_share_by_weight():
    queue = make_queue(*make_requests("o", 100), *make_requests("b", 100, RequestClass.BATCH), batch_share=0.2)
    assert serve(queue, 100).count("b") == pytest.approx(20, abs=1)


def test_an_idle_class_leaves_everything_to_the_other_and_claims_nothing_later():
    queue = make_queue(*make_requests("b", 50, RequestClass.BATCH))
    assert serve(queue, 30) == "b" * 30
    for request in make_requests("o", 20):
        queue.add(request)
    assert serve(queue, 20).count("o") == pytest.approx(18, abs=1)


def test_batch_is_owed_where_it_had_less_than_its_share():
    [online], [batch] = make_requests("o", 1), make_requests("b", 1, RequestClass.BATCH)
    queue = make_queue(online, batch)
    assert not queue.is_batch_owed
    queue.start(online)
    queue.charge_decodes([online])
    assert queue.is_batch_owed
    queue.start(batch)
    queue.charge_decodes([batch])
    assert not queue.is_batch_owed


def test_the_first_of_each_flow_is_a_candidate_before_the_second_of_any():
    crowd, few = make_requests("a", 3), make_requests("b", 2)
    queue = make_queue(*crowd, *few)
    assert list(queue.candidates(BOTH, 4)) == [crowd[0], few[0], crowd[1], few[1]]


def test_a_flow_without_a_seat_takes_one_from_the_flow_with_most():
    running = [*make_requests("a", 3), *make_requests("b", 2)]
    queue = make_queue(*running)
    for request in running:
        queue.start(request)
    [head] = make_requests("c", 1)
    queue.add(head)
    assert queue.seat_givers(head) == running[:3]


def test_online_takes_seats_from_batch_before_other_flows():
    online, batch = make_requests("a", 3), make_requests("job", 3, RequestClass.BATCH)
    queue = make_queue(*online, *batch)
    for request in [*online, *batch]:
        queue.start(request)
    [head] = make_requests("c", 1)
    queue.add(head)
    assert queue.seat_givers(head) == batch


def test_a_flow_with_its_share_of_seats_takes_none():
    running = [*make_requests("a", 2), *make_requests("b", 1)]
    queue = make_queue(*running)
    for request in running:
        queue.start(request)
    [head] = make_requests("b", 1)
    queue.add(head)
    assert queue.seat_givers(head) == []


def test_requests_and_tokens_are_counted():
    first, second = make_request(5, flow="a"), make_request(7, flow="b")
    queue = make_queue(first, second)
    queue.start(first)
    assert (queue.num_running, queue.num_waiting, queue.num_waiting_tokens) == (1, 1, 7)
    queue.stop(first)
    queue.remove(second)
    assert (queue.num_running, queue.num_waiting, queue.num_waiting_tokens) == (0, 0, 0)
