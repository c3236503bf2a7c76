import math

from hypothesis import given
from hypothesis import strategies as st

from engine_core.deadlines import Deadlines
from tests.factories import make_request

TIMES = st.floats(0, 100) | st.just(math.inf)


def test_a_request_without_deadlines_is_never_due():
    deadlines = Deadlines()
    deadlines.add(make_request())
    assert deadlines.pop_due(1e18) == []


def test_a_request_that_ended_is_not_due_and_leaves_no_trace_for_long():
    deadlines = Deadlines()
    for _ in range(1000):
        request = make_request(deadline=1e9)
        deadlines.add(request)
        deadlines.remove(request)
    assert len(deadlines) < 300
    assert deadlines.pop_due(2e9) == []


@given(st.lists(st.tuples(TIMES, TIMES)), st.floats(0, 100))
def test_a_request_is_due_once_for_each_deadline_that_has_passed(times, now):
    deadlines = Deadlines()
    expected = []
    for queue_deadline, deadline in times:
        request = make_request(queue_deadline=queue_deadline, deadline=deadline)
        deadlines.add(request)
        expected += [request.key for _ in {time for time in (queue_deadline, deadline) if time <= now}]
    assert sorted(deadlines.pop_due(now)) == expected
    assert deadlines.pop_due(now) == []
