"""Prompts that begin alike have the same first hashes, as many as they share whole blocks for."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.routing.prefix_path import DEPTHS, PrefixPath
from ipc.messages import Add, RequestId
from tests.factories import make_params

BLOCK_SIZE = 4


def path_of(tokens: list[int], **fields: str) -> PrefixPath:
    return PrefixPath(Add(RequestId(1), array("i", tokens), make_params(), **fields), BLOCK_SIZE)


@pytest.mark.parametrize(
    ("num_tokens", "num_hashes"), [(0, 0), (3, 0), (4, 1), (19, 4), (24, 5), (10_000, len(DEPTHS))]
)
def test_there_is_a_hash_for_each_depth_of_whole_blocks(num_tokens, num_hashes):
    assert len(path_of(list(range(num_tokens))).hashes) == num_hashes


tokens = st.lists(st.integers(0, 50_000), max_size=80)


@given(tokens, tokens, tokens)
def test_hashes_are_equal_as_far_as_prompts_are(common, one, other):
    paths = path_of([*common, 60_000, *one]), path_of([*common, 60_001, *other])
    for depth, first, second in zip(DEPTHS, *(path.hashes for path in paths), strict=False):
        assert (first == second) == (depth * BLOCK_SIZE <= len(common))


@given(st.lists(st.integers(0, 50_000), min_size=BLOCK_SIZE * 4, max_size=200), st.data())
def test_a_hash_between_two_depths_is_that_of_the_shorter_prompt(prompt, data):
    path = path_of(prompt)
    level = data.draw(st.integers(0, len(path.hashes) - 1))
    num_blocks = data.draw(st.integers(DEPTHS[level], path.num_blocks))
    shorter = path_of(prompt[: num_blocks * BLOCK_SIZE])
    assert path.hash_between(level, num_blocks) == shorter.hash_of_all()


def test_the_hash_of_all_has_the_last_token_too():
    assert path_of([1, 2, 3, 4, 5]).hash_of_all() != path_of([1, 2, 3, 4, 6]).hash_of_all()


def test_salt_and_adapter_are_in_every_hash():
    prompt = list(range(40))
    plain, *others = (
        path_of(prompt, **fields)
        for fields in ({}, {"cache_salt": "a"}, {"adapter": "a"}, {"cache_salt": "ab", "adapter": "c"},
                       {"cache_salt": "a", "adapter": "bc"})
    )  # fmt: skip
    hashes = [[*path.hashes, path.hash_of_all()] for path in (plain, *others)]
    assert len({value for values in hashes for value in values}) == sum(map(len, hashes))


def test_hashes_are_the_same_in_every_process():
    assert path_of(list(range(8)), cache_salt="s").hashes == [3787985009, 1281481938]


def test_bytes_after_a_level_reach_to_the_next_depth_and_some_tokens_on():
    path = path_of(list(range(100)))
    assert list(array("i", path.bytes_after(3, 2))) == list(range(16, 26))
    assert list(array("i", path.bytes_after(8, 2))) == list(range(96, 100))
