import pytest

from engine_core.admission import Admission
from ipc.config import SchedulerConfig
from ipc.errors import QueueFullError


def make_admission(**limits):
    return Admission(SchedulerConfig(**{"max_num_seqs": 2, "max_queued_requests": 3, **limits}))


def enter(admission, count, num_tokens=10):
    for _ in range(count):
        admission.enter(num_tokens)


def test_an_idle_core_takes_what_it_can_run_and_what_may_wait():
    admission = make_admission()
    enter(admission, 5)
    with pytest.raises(QueueFullError):
        admission.enter(10)


def test_places_are_free_again_when_requests_end():
    admission = make_admission()
    enter(admission, 5)
    admission.start(10)
    with pytest.raises(QueueFullError):
        admission.enter(10)
    admission.end()
    admission.enter(10)


def test_a_request_that_ends_unscheduled_frees_its_place():
    admission = make_admission()
    enter(admission, 5)
    admission.withdraw(10)
    admission.enter(10)


def test_waiting_prompt_tokens_are_bounded():
    admission = make_admission(max_queued_tokens=100)
    enter(admission, 3, num_tokens=30)
    with pytest.raises(QueueFullError, match="prompt tokens"):
        admission.enter(30)
    admission.enter(10)


def test_a_free_place_takes_a_prompt_of_any_length():
    make_admission(max_queued_tokens=100).enter(5000)
