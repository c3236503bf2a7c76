"""What was sent where is found by the deepest beginning, within bounds, and counted."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.routing.prefix_memory import Match, PrefixMemory
from frontend.routing.prefix_path import DEPTHS, PrefixPath
from ipc.messages import Add, RequestId
from tests.factories import make_params

BLOCK_SIZE = 4


def path_of(tokens: list[int]) -> PrefixPath:
    return PrefixPath(Add(RequestId(1), array("i", tokens), make_params()), BLOCK_SIZE)


def blocks(chat: int, count: int) -> list[int]:
    return [1000 * chat + index for index in range(count * BLOCK_SIZE)]


def send(memory: PrefixMemory, tokens: list[int], core: str) -> Match:
    path = path_of(tokens)
    match = memory.find(path)
    memory.remember(path, match, core)
    return match


def core_of(memory: PrefixMemory, tokens: list[int]) -> str | None:
    node = memory.find(path_of(tokens)).deepest
    return None if node is None else node.core


def test_an_unknown_prompt_matches_nothing():
    match = PrefixMemory(100).find(path_of(blocks(1, 5)))
    assert (match.deepest, match.end, match.num_blocks, match.nodes) == (None, None, 0, [])


@pytest.mark.parametrize("num_blocks", [1, 2, 5, 7, 8, 13, 31, 32, 100, 128])
def test_a_prompt_that_goes_on_is_known_to_the_end_of_the_one_before(num_blocks):
    memory = PrefixMemory(100)
    send(memory, [*blocks(1, num_blocks), 1, 2], "a")
    match = memory.find(path_of([*blocks(1, num_blocks), 1, 2, 3, *blocks(2, 40)]))
    assert match.num_blocks == num_blocks
    assert match.deepest is not None
    assert match.deepest.core == "a"
    assert (match.end is not None) == (num_blocks not in DEPTHS)


def test_the_deepest_beginning_counts():
    memory = PrefixMemory(100)
    send(memory, blocks(1, 6), "a")
    send(memory, [*blocks(1, 6), *blocks(2, 5)], "b")
    assert core_of(memory, [*blocks(1, 6), *blocks(3, 9)]) == "a"
    assert core_of(memory, [*blocks(1, 6), *blocks(2, 5), *blocks(3, 9)]) == "b"


def test_a_beginning_keeps_its_first_core_and_the_last_other_one():
    memory = PrefixMemory(100)
    for core in "abca":
        send(memory, blocks(1, 5), core)
    node = memory.find(path_of(blocks(1, 5))).deepest
    assert node is not None
    assert (node.core, node.overflow_core) == ("a", "c")


def test_where_a_core_is_gone_the_other_one_that_has_it_is_left():
    memory = PrefixMemory(100)
    send(memory, blocks(1, 6), "a")
    send(memory, blocks(1, 6), "b")
    send(memory, blocks(2, 6), "a")
    memory.forget({"a"})
    assert core_of(memory, blocks(1, 6)) == "b"
    assert core_of(memory, blocks(2, 6)) is None
    send(memory, blocks(2, 6), "c")
    assert core_of(memory, blocks(2, 6)) == "c"


def test_shares_are_those_of_all_requests():
    memory = PrefixMemory(1000)
    for number in range(40):
        send(memory, [*blocks(1 + number % 4, 3), *blocks(100 + number, 3)], "a")
    node = memory.find(path_of([*blocks(1, 3), *blocks(500, 3)])).nodes[-1]
    assert memory.num_recent(node) == pytest.approx(11, rel=0.05)
    assert memory.share_of(node) == pytest.approx(11 / 41, rel=0.05)


def test_what_was_long_ago_counts_for_little():
    memory = PrefixMemory(1000)
    for number in range(80_000):  # whose weights have grown beyond their limit
        path = path_of(blocks(1 if number < 5000 or number >= 75_000 else 2, 1))
        memory.remember(path, memory.find(path), "a")
    now = memory.find(path_of(blocks(1, 1))).nodes[-1]
    before = memory.find(path_of(blocks(2, 1))).nodes[-1]
    assert memory.share_of(now) > 0.99
    assert memory.share_of(before) < 0.01


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 40)), max_size=60), st.integers(0, 25))
def test_memory_is_bounded_and_every_node_has_its_ancestors(prompts, max_nodes):
    memory = PrefixMemory(max_nodes)
    for chat, num_blocks in prompts:
        path = path_of(blocks(chat, num_blocks))
        memory.remember(path, memory.find(path), "a")
        assert len(memory) <= max_nodes
        known = [prefix_hash in memory for prefix_hash in path.hashes]
        assert known == sorted(known, reverse=True)


def test_what_was_used_last_is_kept():
    memory = PrefixMemory(20)
    send(memory, blocks(1, 8), "a")
    for number in range(2, 30):
        send(memory, blocks(number, 2), "b")
        assert core_of(memory, blocks(1, 8)) is not None
        send(memory, blocks(1, 8), "a")
