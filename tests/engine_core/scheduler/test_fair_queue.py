from unittest.mock import patch

import pytest

from engine_core.scheduler import fair_queue
from engine_core.scheduler.admission_order import admission_order
from engine_core.scheduler.batch_share import BatchShare
from engine_core.scheduler.fair_queue import FairQueue
from ipc.config import SchedulerConfig
from ipc.messages import RequestClass
from tests.factories import make_request

ONLINE, BATCH = RequestClass.ONLINE, RequestClass.BATCH


def make_queue(*requests, batch_share=None):
    queue = FairQueue(admission_order(SchedulerConfig(), 1000), batch_share or BatchShare(0.1, 8))
    for request in requests:
        queue.add(request)
    return queue


def make_requests(flow, count, request_class=ONLINE):
    return [make_request(flow=flow, request_class=request_class) for _ in range(count)]


def serve(queue, num_requests, num_tokens=10):
    """Admit, charge and end so many requests; returns their flows."""
    flows = []
    for _ in range(num_requests):
        request = next(queue.candidates(ONLINE, 1))
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
        assert len(queue._classes[ONLINE].past_counters) <= 10


def make_shared_queue(*requests):
    """A queue with its batch share, brought to a debt of 10."""
    share = BatchShare(0.1, 8)
    queue = make_queue(*requests, batch_share=share)
    share._debt = 10.0
    return queue, share


def test_what_online_gets_is_owed_to_batch_while_batch_has_requests():
    [online], [batch] = make_requests("o", 1), make_requests("b", 1, BATCH)
    queue, share = make_shared_queue(online, batch)
    queue.start(online)
    queue.charge_prefill(online, 100)
    assert share._debt == 20
    queue.remove(batch)
    queue.charge_prefill(online, 100)
    assert share._debt == 0


def test_what_batch_gets_is_taken_off():
    [batch] = make_requests("b", 1, BATCH)
    queue, share = make_shared_queue(batch)
    queue.start(batch)
    queue.charge_decodes([batch])
    assert share._debt == pytest.approx(10 - 0.9 * 2)


def test_batch_that_has_all_it_wants_is_forgiven_when_it_wants_more():
    running, waiting = make_requests("b", 2, BATCH)
    queue, share = make_shared_queue(running)
    queue.start(running)
    queue.add(waiting)
    assert not share.is_owed


def test_the_first_of_each_flow_is_a_candidate_before_the_second_of_any():
    crowd, few = make_requests("a", 3), make_requests("b", 2)
    queue = make_queue(*crowd, *few)
    assert list(queue.candidates(ONLINE, 4)) == [crowd[0], few[0], crowd[1], few[1]]


def make_running(*requests):
    queue = make_queue(*requests)
    for request in requests:
        queue.start(request)
    return queue


def test_every_flow_with_more_than_its_share_of_seats_is_a_giver():
    queue = make_running(*make_requests("a", 3), *make_requests("b", 2), *make_requests("c", 1))
    [head] = make_requests("d", 1)
    queue.add(head)
    assert [flow.name for flow in queue.seat_givers(head)] == ["a", "b"]


def test_flows_of_the_other_class_are_no_givers():
    queue = make_running(*make_requests("job", 3, BATCH))
    [head] = make_requests("c", 1)
    queue.add(head)
    assert queue.seat_givers(head) == []


def test_a_flow_with_its_share_of_seats_takes_none():
    queue = make_running(*make_requests("a", 2), *make_requests("b", 1))
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
