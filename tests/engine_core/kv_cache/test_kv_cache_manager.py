from unittest.mock import patch

import pytest

from ipc.messages import Task
from tests.factories import BLOCK_SIZE, make_kv_cache, make_request


def admit(kv_cache, request):
    """Admit and compute the whole prompt, as a step would."""
    num_cached = kv_cache.try_admit(request, 0)
    request.num_computed_tokens = num_cached
    kv_cache.publish(request, request.num_tokens)
    request.num_computed_tokens = request.num_tokens
    return num_cached


def test_a_table_covers_the_whole_prompt():
    kv_cache = make_kv_cache()
    request = make_request(2 * BLOCK_SIZE + 1)
    assert kv_cache.try_admit(request, 0) == 0
    assert len(kv_cache.block_ids(request)) == 3


def test_a_request_that_does_not_fit_takes_nothing():
    kv_cache = make_kv_cache(num_blocks=2)
    assert kv_cache.try_admit(make_request(3 * BLOCK_SIZE), 0) is None
    kv_cache.check_idle()


def test_spare_blocks_are_left_free():
    kv_cache = make_kv_cache(num_blocks=3)
    assert kv_cache.try_admit(make_request(2 * BLOCK_SIZE), 2) is None
    assert kv_cache.try_admit(make_request(2 * BLOCK_SIZE), 1) == 0


def test_without_a_cache_every_request_fits_and_has_no_blocks():
    kv_cache = make_kv_cache(num_blocks=0, enable_prefix_caching=False)
    requests = [make_request(50), make_request(50)]
    for request in requests:
        assert kv_cache.can_admit(request, 5)
        assert admit(kv_cache, request) == 0
        assert kv_cache.block_ids(request) == ()
    assert kv_cache.num_missing_blocks(requests) == 0
    for request in requests:
        kv_cache.free(request)
    kv_cache.check_idle()


def test_an_equal_prefix_shares_full_blocks():
    kv_cache = make_kv_cache()
    first, second = make_request(50), make_request(50)
    admit(kv_cache, first)
    assert admit(kv_cache, second) == 3 * BLOCK_SIZE
    assert kv_cache.block_ids(second)[:3] == kv_cache.block_ids(first)[:3]
    assert kv_cache.block_ids(second)[3] != kv_cache.block_ids(first)[3]


def test_one_token_is_always_left_to_compute():
    kv_cache = make_kv_cache()
    admit(kv_cache, make_request(2 * BLOCK_SIZE))
    assert admit(kv_cache, make_request(2 * BLOCK_SIZE)) == BLOCK_SIZE


def test_a_salt_divides_the_cache():
    kv_cache = make_kv_cache()
    admit(kv_cache, make_request(50))
    assert admit(kv_cache, make_request(50, cache_salt="mine")) == 0


def test_the_cache_outlives_its_request():
    kv_cache = make_kv_cache()
    first = make_request(50)
    admit(kv_cache, first)
    kv_cache.free(first)
    kv_cache.check_idle()
    assert admit(kv_cache, make_request(50)) == 3 * BLOCK_SIZE


def test_a_distrusted_request_leaves_nothing_in_the_cache():
    kv_cache = make_kv_cache()
    first = make_request(50)
    admit(kv_cache, first)
    kv_cache.discard(first)
    assert admit(kv_cache, make_request(50)) == 0


def test_a_table_grows_by_whole_blocks():
    kv_cache = make_kv_cache()
    request = make_request(BLOCK_SIZE)
    admit(kv_cache, request)
    request.append_output_token(1, 0.0)
    assert kv_cache.num_missing_blocks([request]) == 1
    assert len(kv_cache.extend(request)) == 1
    request.append_output_token(1, 0.0)
    assert kv_cache.num_missing_blocks([request]) == 0
    assert kv_cache.extend(request) == ()


def test_asking_whether_a_request_can_be_admitted_takes_nothing():
    kv_cache = make_kv_cache(num_blocks=3)
    assert kv_cache.can_admit(make_request(2 * BLOCK_SIZE), 1)
    assert not kv_cache.can_admit(make_request(2 * BLOCK_SIZE), 2)
    kv_cache.check_idle()


def test_a_prefix_that_is_being_computed_is_known_until_it_is_published():
    kv_cache = make_kv_cache()
    first, second = make_request(50), make_request(50)
    kv_cache.try_admit(first, 0)
    assert kv_cache.computing_request(second) is first
    kv_cache.publish(first, BLOCK_SIZE)
    first.num_computed_tokens = BLOCK_SIZE
    assert kv_cache.computing_request(second) is first  # of its second block
    kv_cache.publish(first, 50)
    assert kv_cache.computing_request(second) is None


@pytest.mark.parametrize("let_go", ["free", "discard"])
def test_nobody_waits_for_a_prefix_whose_request_is_gone(let_go):
    kv_cache = make_kv_cache()
    first, second = make_request(50), make_request(50)
    kv_cache.try_admit(first, 0)
    getattr(kv_cache, let_go)(first)
    assert kv_cache.computing_request(second) is None
    kv_cache.check_idle()


def test_a_request_that_cannot_read_the_cache_waits_for_no_prefix():
    kv_cache = make_kv_cache()
    kv_cache.try_admit(make_request(50), 0)
    assert kv_cache.computing_request(make_request(50, task=Task.EMBED)) is None


def test_a_last_block_that_must_be_computed_anyway_is_not_waited_for():
    kv_cache = make_kv_cache()
    kv_cache.try_admit(make_request(BLOCK_SIZE), 0)
    assert kv_cache.computing_request(make_request(BLOCK_SIZE)) is None


def test_without_prefix_caching_nothing_is_shared():
    kv_cache = make_kv_cache(enable_prefix_caching=False)
    admit(kv_cache, make_request(50))
    assert admit(kv_cache, make_request(50)) == 0


def test_a_leak_is_seen():
    kv_cache = make_kv_cache()
    admit(kv_cache, make_request(50))
    with pytest.raises(AssertionError):
        kv_cache.check_idle()


def test_blocks_of_others_count_as_free_only_where_nobody_else_uses_them():
    kv_cache = make_kv_cache(num_blocks=4)
    first, second = make_request(2 * BLOCK_SIZE + 1), make_request(2 * BLOCK_SIZE + 1)
    admit(kv_cache, first)
    admit(kv_cache, second)
    head = make_request([9] * BLOCK_SIZE)
    assert not kv_cache.can_admit(head, 0)
    assert kv_cache.can_admit(head, 0, without=[first])
    assert not kv_cache.can_admit(head, 1, without=[first])
    assert kv_cache.can_admit(head, 3, without=[first, second])


def test_a_cached_prefix_that_others_give_up_is_not_counted_as_free_too():
    kv_cache = make_kv_cache(num_blocks=3)
    first = make_request(3 * BLOCK_SIZE)
    admit(kv_cache, first)
    assert kv_cache.can_admit(make_request(3 * BLOCK_SIZE), 0, without=[first])
    assert not kv_cache.can_admit(make_request(3 * BLOCK_SIZE), 1, without=[first])


def test_who_waits_for_a_long_prefix_walks_it_once():
    kv_cache = make_kv_cache()
    computing, waiting = make_request(10 * BLOCK_SIZE), make_request(10 * BLOCK_SIZE)
    kv_cache.try_admit(computing, 0)
    assert kv_cache.computing_request(waiting) is computing
    with patch.object(kv_cache, "_find_cached_prefix", side_effect=AssertionError("it walks")):
        for end in range(BLOCK_SIZE, 9 * BLOCK_SIZE, BLOCK_SIZE):
            kv_cache.publish(computing, end)
            computing.num_computed_tokens = end
            assert kv_cache.computing_request(waiting) is computing
    kv_cache.publish(computing, 10 * BLOCK_SIZE)
    assert kv_cache.computing_request(waiting) is None
