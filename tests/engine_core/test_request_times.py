from engine_core.request_times import RequestTimes
from tests.factories import CoreHarness, make_fake_runner


def test_phases_of_a_request_add_up_to_its_life():
    times = RequestTimes(arrived_at=10.0, first_scheduled_at=12.0)
    times.on_token(15.0)
    times.on_token(16.0)
    times.on_token(19.0)
    durations = times.durations(20.0)
    assert (durations.queue_s, durations.prefill_s, durations.decode_s, durations.total_s) == (2.0, 3.0, 4.0, 10.0)
    assert (durations.time_to_first_token_s, durations.inference_s) == (5.0, 7.0)


def test_a_request_that_ends_in_the_queue_has_spent_all_its_time_there():
    durations = RequestTimes(arrived_at=10.0).durations(13.0)
    assert (durations.queue_s, durations.total_s) == (3.0, 3.0)
    assert durations.prefill_s is durations.decode_s is durations.time_to_first_token_s is None


def test_a_preempted_request_keeps_the_time_when_it_was_first_scheduled():
    times = RequestTimes(arrived_at=10.0, first_scheduled_at=12.0)
    times.on_scheduled()
    assert times.first_scheduled_at == 12.0


def test_the_core_tells_clients_the_times_that_it_took(tmp_path):
    harness = CoreHarness(make_fake_runner(tmp_path))
    request_id = harness.add([1, 2, 3], max_tokens=3)
    harness.run()
    finished = harness.finished[request_id]
    assert 0 <= finished.queue_time_us < finished.first_token_us < finished.total_time_us
