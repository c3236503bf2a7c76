"""A bucket's cores hang on the names alone, and move only where they must."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.routing.rendezvous import NUM_BUCKETS, Rendezvous, bucket_of

NAMES = [f"core-{index}" for index in range(16)]


def rendezvous(names: list[str]) -> Rendezvous:
    result = Rendezvous()
    result.set_cores(names)
    return result


@given(st.integers(0, 2**32 - 1))
def test_every_hash_has_a_bucket(prefix_hash):
    assert 0 <= bucket_of(prefix_hash) < NUM_BUCKETS


def test_the_order_of_names_means_nothing():
    one, other = rendezvous(NAMES), rendezvous(NAMES[::-1])
    assert all(one.first_two(bucket) == other.first_two(bucket) for bucket in range(NUM_BUCKETS))


def test_all_cores_get_about_the_same_share():
    table = rendezvous(NAMES)
    counts = Counter(table.first_two(bucket)[0] for bucket in range(NUM_BUCKETS))
    for name in NAMES:
        assert counts[name] == pytest.approx(NUM_BUCKETS / 16, rel=0.25)


def test_where_the_first_core_leaves_the_second_takes_over_and_nothing_else_moves():
    table = rendezvous(NAMES)
    before = [table.first_two(bucket) for bucket in range(NUM_BUCKETS)]
    gone = NAMES[3]
    table.set_cores([name for name in NAMES if name != gone])
    for bucket, (first, second) in enumerate(before):
        assert table.first_two(bucket)[0] == (second if first == gone else first)
    table.set_cores(NAMES)
    assert [table.first_two(bucket) for bucket in range(NUM_BUCKETS)] == before


def test_one_core_is_first_and_second():
    assert rendezvous(["a"]).first_two(7) == ("a", "a")


@given(st.integers(0, NUM_BUCKETS - 1), st.sampled_from([2, 4, 8]))
def test_a_group_has_as_many_cores_and_keeps_them_as_it_grows(bucket, num_cores):
    table = rendezvous(NAMES)
    members = {table.two_of_group(bucket, num_cores, member)[0] for member in range(0, NUM_BUCKETS, 16)}
    larger = {table.two_of_group(bucket, 2 * num_cores, member)[0] for member in range(0, NUM_BUCKETS, 16)}
    assert len(members) == num_cores
    assert members < larger


def test_a_group_of_all_cores_is_all_cores():
    table = rendezvous(NAMES)
    assert table.two_of_group(5, 16, 9) == table.two_of_group(6, 64, 9) == table.first_two(9)


def test_the_two_of_a_group_differ():
    table = rendezvous(NAMES)
    assert all(len(set(table.two_of_group(5, 4, member))) == 2 for member in range(200))
