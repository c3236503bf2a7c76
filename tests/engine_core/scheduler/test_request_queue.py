from engine_core.scheduler.request_queue import RequestQueue
from tests.factories import make_request


def make_queue(*requests):
    queue = RequestQueue()
    for request in requests:
        queue.add(request)
    return queue


def test_requests_wait_in_order_of_arrival():
    early, late = make_request(), make_request()
    assert make_queue(late, early).first(9) == [early, late]


def test_a_lower_priority_number_comes_first():
    normal, urgent = make_request(), make_request(priority=-1)
    assert make_queue(normal, urgent).first(9) == [urgent, normal]


def test_tokens_are_counted():
    first, second = make_request(5), make_request(7)
    queue = make_queue(first, second)
    queue.remove(first)
    assert (len(queue), queue.num_tokens) == (1, 7)
