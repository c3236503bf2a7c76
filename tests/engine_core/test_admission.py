"""What may wait, what clients hear of it, and that the books are always right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_core.admission import Admission
from ipc.config import SchedulerConfig
from ipc.errors import QueueFullError
from ipc.messages import Load


def make_admission(on_full_changed=lambda: None, **limits):
    return Admission(SchedulerConfig(**{"max_num_seqs": 2, "max_queued_requests": 3, **limits}), on_full_changed)


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


def test_occupancy_counts_what_no_step_has_seen():
    admission = make_admission()
    enter(admission, 3, num_tokens=7)
    admission.start(7)
    load = admission.occupancy(Load(num_running=50, num_free_blocks=9, num_blocks=10))
    assert load == Load(num_running=1, num_waiting=2, num_queued_tokens=14, num_free_blocks=9, num_blocks=10)


def test_clients_are_told_when_the_queue_is_full_and_when_it_no_longer_is():
    heard = []
    admission = make_admission(lambda: heard.append(admission.is_full))
    enter(admission, 4)
    assert heard == []
    enter(admission, 1)
    with pytest.raises(QueueFullError):
        admission.enter(10)
    assert heard == [True]
    admission.withdraw(10)
    assert heard == [True, False]


def test_starting_frees_no_place_while_all_are_taken():
    heard = []
    admission = make_admission(lambda: heard.append(admission.is_full))
    enter(admission, 5)
    admission.start(10)
    admission.start(10)
    assert heard == [True]
    admission.end()
    assert heard == [True, False]


def test_full_of_tokens_is_full():
    admission = make_admission(max_queued_tokens=100)
    enter(admission, 3, num_tokens=40)
    assert admission.is_full


def test_only_a_full_queue_says_when_to_try_again():
    admission = make_admission()
    enter(admission, 4)
    assert admission.occupancy(Load()).retry_after_ms == 0
    enter(admission, 1)
    assert admission.occupancy(Load()).retry_after_ms >= 1000


def test_the_time_to_try_again_grows_with_the_queue_and_falls_with_the_rate(monkeypatch):
    now = 0.0
    monkeypatch.setattr("engine_core.admission.time.monotonic", lambda: now)
    admission = make_admission(max_queued_requests=100)
    enter(admission, 102)
    for _ in range(10):  # a request in 0.4 s
        admission.start(10)
        now += 0.4
        admission.end()
        admission.enter(10)
    assert admission.occupancy(Load()).retry_after_ms == pytest.approx(102 / 2 * 0.36 * 1000, rel=0.02)
    now += 1000
    assert admission.occupancy(Load()).retry_after_ms == 60_000


LIMITS = {"max_num_seqs": 2, "max_queued_requests": 3, "max_queued_tokens": 25}


@given(st.lists(st.tuples(st.sampled_from(["enter", "start", "withdraw", "end"]), st.integers(1, 20)), max_size=60))
def test_the_books_agree_with_a_plain_model(events):
    heard, waiting, num_started = [], [], 0
    admission = make_admission(lambda: heard.append(None), **LIMITS)
    was_full, num_changes = False, 0
    for event, num_tokens in events:
        num_free = max(0, 2 - num_started)
        if event == "enter":
            is_refused = len(waiting) >= num_free + 3 or (len(waiting) > num_free and sum(waiting) + num_tokens > 25)
            if is_refused:
                with pytest.raises(QueueFullError):
                    admission.enter(num_tokens)
            else:
                admission.enter(num_tokens)
                waiting.append(num_tokens)
        elif event == "start" and waiting:
            admission.start(waiting.pop(0))
            num_started += 1
        elif event == "withdraw" and waiting:
            admission.withdraw(waiting.pop())
        elif event == "end" and num_started:
            admission.end()
            num_started -= 1
        load = admission.occupancy(Load())
        assert (load.num_running, load.num_waiting, load.num_queued_tokens) == (num_started, len(waiting), sum(waiting))
        num_changes += admission.is_full != was_full
        was_full = admission.is_full
        assert (len(heard), load.retry_after_ms > 0) == (num_changes, was_full)
