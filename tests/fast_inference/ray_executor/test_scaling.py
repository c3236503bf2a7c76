import pytest

from fast_inference.ray_executor.scaling import COOL_DOWN_S, UP_AFTER_S, CoreLoad, ScalingPolicy
from ipc.messages import Load

DOWN_IDLE_S = 10.0


def policy(fewest=1, most=3):
    return ScalingPolicy(fewest, most, 100, DOWN_IDLE_S)


def cores(number, queued=0, running=0, max_num_seqs=8):
    return [CoreLoad(Load(num_running=running, num_queued_tokens=queued), max_num_seqs)] * number


def decide(scaling, wanted, loads, times):
    """What is wanted in the end, where each decision is taken over at once."""
    for now in times:
        wanted = scaling.num_wanted(now, wanted, loads(wanted))
    return wanted


def test_one_more_core_once_the_queue_has_lasted():
    scaling = policy()
    assert scaling.num_wanted(0, 1, cores(1, queued=101)) == 1
    assert scaling.num_wanted(UP_AFTER_S, 1, cores(1, queued=101)) == 2


def test_a_queue_that_goes_away_starts_no_core():
    scaling = policy()
    scaling.num_wanted(0, 1, cores(1, queued=101))
    scaling.num_wanted(1, 1, cores(1))
    assert scaling.num_wanted(UP_AFTER_S, 1, cores(1, queued=101)) == 1


def test_the_queue_counts_per_core():
    scaling = policy()
    assert decide(scaling, 2, lambda wanted: cores(2, queued=100), [0, 100]) == 2


def test_no_further_core_while_one_that_is_wanted_is_not_there():
    scaling = policy()
    assert decide(scaling, 2, lambda wanted: cores(1, queued=1000), [0, 10, 20]) == 2


def test_one_change_in_a_cool_down():
    scaling = policy()
    times = [0, UP_AFTER_S, UP_AFTER_S + 0.1, UP_AFTER_S + COOL_DOWN_S - 0.1]
    assert decide(scaling, 1, lambda wanted: cores(wanted, queued=1000), times) == 2
    assert scaling.num_wanted(UP_AFTER_S + COOL_DOWN_S, 2, cores(2, queued=1000)) == 3


def test_never_more_than_the_most():
    assert decide(policy(), 1, lambda wanted: cores(wanted, queued=1000), range(100)) == 3


def test_one_less_after_one_could_be_spared_for_long_enough():
    scaling = policy()
    assert scaling.num_wanted(0, 3, cores(3, running=1)) == 3
    assert scaling.num_wanted(DOWN_IDLE_S - 0.1, 3, cores(3, running=1)) == 3
    assert scaling.num_wanted(DOWN_IDLE_S, 3, cores(3, running=1)) == 2


def test_no_core_goes_while_the_others_would_be_more_than_half_full():
    assert decide(policy(), 2, lambda wanted: cores(wanted, running=3), range(100)) == 2


def test_never_fewer_than_the_fewest():
    assert decide(policy(), 3, cores, range(100)) == 1


@pytest.mark.parametrize(("wanted", "bounded"), [(0, 1), (5, 3)])
def test_a_number_from_before_is_brought_within_the_bounds(wanted, bounded):
    assert policy().num_wanted(0, wanted, []) == bounded
