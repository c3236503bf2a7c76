"""How long the phases of a request took, as its client knows it."""

import time

import pytest

from ipc.messages import Finished, FinishReason, RequestId, Started
from ipc.request_options import new_add
from ipc.request_outputs import PhaseTimes, RequestOutputs
from tests.factories import make_params, make_welcome

CORE = make_welcome()
STARTED = Started(RequestId(1), 0, queue_time_us=1_000, first_token_us=5_000)
FINISHED = Finished(
    RequestId(1), FinishReason.LENGTH, 2, 3, queue_time_us=1_000, first_token_us=5_000, total_time_us=9_000
)


@pytest.fixture
def now(monkeypatch):
    clock = {"now": 100.0}
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
    return clock


def make_request() -> RequestOutputs:
    request = RequestOutputs(new_add(RequestId(1), [1, 2], make_params()))
    request.on_sent(CORE)
    return request


def begin(request: RequestOutputs) -> None:
    request.start(STARTED)
    request.push_token(7)


def test_a_core_that_saw_all_of_a_request_knows_its_times(now):
    request = make_request()
    now["now"] += 1
    begin(request)
    assert request.phase_times(FINISHED) == PhaseTimes(1_000, 5_000, 9_000)


def test_what_a_reader_ends_itself_has_taken_until_now_since_the_first_token(now):
    request = make_request()
    begin(request)
    now["now"] += 0.25
    assert request.phase_times(None) == PhaseTimes(1_000, 5_000, 255_000)


def test_time_that_a_lost_core_took_before_the_first_token_was_spent_in_the_queue(now):
    request = make_request()
    now["now"] += 2
    request.on_sent(CORE)
    begin(request)
    now["now"] += 0.5
    assert request.phase_times(FINISHED) == PhaseTimes(2_001_000, 2_005_000, 2_505_000)


def test_waiting_for_the_next_core_behind_the_first_token_is_a_part_of_decoding(now):
    request = make_request()
    begin(request)
    now["now"] += 3
    request.on_sent(CORE)
    request.start(Started(RequestId(1), 0, queue_time_us=70, first_token_us=80))  # of its second life
    request.push_token(8)
    now["now"] += 1
    assert request.phase_times(FINISHED) == PhaseTimes(1_000, 5_000, 4_005_000)


def test_a_request_that_ends_without_a_token_spent_its_time_before_it(now):
    request = make_request()
    now["now"] += 2
    request.on_sent(CORE)
    now["now"] += 1
    assert request.phase_times(FINISHED) == PhaseTimes(2_001_000, 3_000_000, 3_000_000)
    assert request.phase_times(None) == PhaseTimes(3_000_000, 3_000_000, 3_000_000)
