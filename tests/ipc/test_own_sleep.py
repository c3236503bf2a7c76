"""Silence is only what was not heard while somebody listened."""

from ipc.own_sleep import OwnSleep, Silence


def test_a_process_that_runs_has_not_slept():
    own_sleep = OwnSleep(now=0)
    assert [own_sleep.slept_s(now) for now in (0.5, 1.0, 2.0)] == [0, 0, 0]


def test_a_process_that_was_stopped_has_slept_since_it_last_asked():
    own_sleep = OwnSleep(now=0)
    assert own_sleep.slept_s(now=12) == 12
    assert own_sleep.slept_s(now=12.5) == 0


def test_a_silent_peer_is_silent_since_it_was_heard():
    silence = Silence(now=0)
    assert [silence.seconds(age, now=age) for age in (1, 2, 3)] == [1, 2, 3]


def test_a_word_ends_the_silence():
    silence = Silence(now=0)
    silence.seconds(1, now=1)
    assert silence.seconds(0.2, now=2) == 0.2


def test_own_sleep_is_no_silence_of_others():
    silence = Silence(now=0)
    silence.seconds(1, now=1)
    assert silence.seconds(31, now=31) == 1
    assert silence.seconds(32, now=32) == 2
