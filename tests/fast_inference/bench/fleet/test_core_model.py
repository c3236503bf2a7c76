"""One simulated core: seats, blocks, cached prefixes, and decode steps at once."""

import random

import pytest

from fast_inference.bench.fleet.core_model import CoreSettings, SimCore
from fast_inference.bench.fleet.sim_request import SimRequest
from fast_inference.bench.fleet.step_time import StepTime
from fast_inference.bench.fleet.tokens import Text

TIME = StepTime(0.01, 0.001, 1e-6, 1e-4)


class Listener:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.finished: dict[int, SimRequest] = {}
        self.num_gaps = 0

    def on_tokens(self, num_gaps, gap_s):
        assert gap_s > 0
        self.num_gaps += num_gaps

    def on_finished(self, request, now):
        assert request.number not in self.finished
        assert request.last_token_s == now
        self.finished[request.number] = request


def requests_of(seed, count):
    """Some share a beginning, and all come within two seconds."""
    source = random.Random(seed)
    made = []
    for number in range(count):
        prompt = Text().plus(source.randrange(3), source.choice([64, 100])).plus(10 + number, source.randrange(1, 300))
        made.append(SimRequest(number, source.random() * 2, prompt, source.randrange(1, 60), 10 + number))
    return sorted(made, key=lambda request: request.arrived_s)


def play(core, requests, until_s=None):
    """Bring the requests to the core at their times, and run it."""
    left = list(requests)
    while left or core.wakes_at_s is not None:
        next_s = left[0].arrived_s if left else float("inf")
        wake_s = float("inf") if core.wakes_at_s is None else core.wakes_at_s
        if until_s is not None and min(next_s, wake_s) > until_s:
            return left
        if next_s < wake_s:
            core.add(left.pop(0), next_s)
        else:
            core.wake(wake_s)
        core.cache.check()
        assert core.num_running <= core._settings.max_num_seqs
    return []


def times_of(listener):
    return {
        number: (request.first_token_s, request.last_token_s, request.num_cached_tokens)
        for number, request in listener.finished.items()
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("num_blocks", "max_num_seqs"), [(2000, 64), (2000, 4), (60, 64)])
def test_the_closed_form_is_what_single_steps_are(seed, num_blocks, max_num_seqs):
    settings = CoreSettings(TIME, num_blocks, max_num_seqs=max_num_seqs)
    at_once, one_by_one = Listener(), Listener()
    play(SimCore("0", settings, at_once), requests_of(seed, 60))
    play(SimCore("0", settings, one_by_one, has_closed_form=False), requests_of(seed, 60))
    assert len(at_once.finished) == 60
    expected = times_of(one_by_one)
    for number, times in times_of(at_once).items():
        assert times == pytest.approx(expected[number])
    assert at_once.num_gaps == one_by_one.num_gaps == sum(r.num_output_tokens - 1 for r in at_once.finished.values())


def test_blocks_that_run_out_preempt_and_nothing_is_lost():
    listener = Listener()
    core = SimCore("0", CoreSettings(TIME, num_blocks=24), listener)
    play(core, requests_of(0, 40))
    assert core.num_preemptions > 0
    assert len(listener.finished) == 40
    assert core.cache.num_free_blocks == 24


def test_hits_are_exact():
    """Blocks of 32: the second finds all full blocks of what it shares, the third also the first one's answer."""
    listener = Listener()
    core = SimCore("0", CoreSettings(TIME, num_blocks=100), listener)
    shared = Text().plus(1, 100)
    first = SimRequest(0, 0.0, shared.plus(2, 20), 50, 2)
    second = SimRequest(1, 10.0, shared.plus(3, 20), 5, 3)
    third = SimRequest(2, 20.0, shared.plus(2, 20 + 50 + 30), 5, 2)
    again = SimRequest(3, 30.0, Text().plus(9, 64), 5, 9)
    same = SimRequest(4, 40.0, Text().plus(9, 64), 5, 9)
    play(core, [first, second, third, again, same])
    cached = [listener.finished[number].num_cached_tokens for number in range(5)]
    assert cached == [0, 96, 160, 0, 32]  # 120 + 49 computed tokens are 5 blocks; a prompt's last token is computed


def test_a_request_waits_for_a_prefix_that_another_computes():
    listener = Listener()
    core = SimCore("0", CoreSettings(TIME, num_blocks=200), listener)
    shared = Text().plus(1, 1600)
    play(core, [SimRequest(number, 0.001 * number, shared.plus(2 + number, 20), 5, 2 + number) for number in range(3)])
    assert [listener.finished[number].num_cached_tokens for number in range(3)] == [0, 1600, 1600]


def test_a_core_that_dies_has_given_the_tokens_of_the_steps_that_had_ended():
    one_by_one, at_once = Listener(), Listener()
    settings = CoreSettings(TIME, num_blocks=2000)
    emitted = []
    for listener, has_closed_form in ((one_by_one, False), (at_once, True)):
        core = SimCore("0", settings, listener, has_closed_form=has_closed_form)
        play(core, requests_of(1, 30), until_s=1.2345)
        lost = core.stop(1.2345)
        emitted.append({request.number: request.num_emitted for request in lost})
        assert core.num_running == 0
        assert core.cache.num_free_blocks == 2000
    assert emitted[0] == emitted[1]
    assert any(emitted[0].values())


def test_what_another_core_has_begun_goes_on():
    listener = Listener()
    request = SimRequest(0, 0.0, Text().plus(1, 100), 20, 1)
    core = SimCore("0", CoreSettings(TIME, num_blocks=100), listener)
    core.add(request, 0.0)
    core.wake(core.wakes_at_s)
    first_token_s = request.first_token_s
    (lost,) = core.stop(first_token_s + 0.05)
    num_emitted = lost.num_emitted
    assert 1 < num_emitted < 20
    other = SimCore("1", CoreSettings(TIME, num_blocks=100), listener)
    other.add(lost, 5.0)
    play(other, [])
    assert request.num_emitted == 20
    assert request.first_token_s == first_token_s
    assert listener.num_gaps == 19
