import pytest

from engine_core.scheduler.admission_order import admission_order
from engine_core.scheduler.request_queue import RequestQueue
from ipc.config import SchedulerConfig
from tests.factories import make_request


def make_queue(*requests):
    queue = RequestQueue(admission_order(SchedulerConfig(), 1000))
    for request in requests:
        queue.add(request)
    return queue


def test_requests_are_sorted_whatever_the_order_in_which_they_come():
    first, second, third = (make_request() for _ in range(3))
    queue = make_queue(third, first, second)
    assert (list(queue), queue[1], len(queue)) == ([first, second, third], second, 3)


def test_a_request_can_be_taken_out_of_the_middle():
    requests = [make_request() for _ in range(3)]
    queue = make_queue(*requests)
    queue.remove(requests[1])
    assert list(queue) == [requests[0], requests[2]]


def test_a_request_whose_order_changed_while_it_waited_is_noticed():
    requests = [make_request(arrived_at=0.0) for _ in range(3)]
    queue = make_queue(*requests)
    requests[0].priority = 5
    with pytest.raises((AssertionError, IndexError)):
        queue.remove(requests[0])
