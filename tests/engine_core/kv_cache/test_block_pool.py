from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine_core.kv_cache.block_pool import BlockPool


def test_a_freed_block_is_found_until_it_is_handed_out_again():
    pool = BlockPool(2)
    [block] = pool.allocate(1)
    pool.publish(block, b"h")
    pool.free([block])
    assert pool.find([b"h"]) == [block]
    pool.allocate(2)
    assert pool.find([b"h"]) == []


def test_blocks_without_a_hash_are_reused_before_cached_ones():
    pool = BlockPool(3)
    cached, plain = pool.allocate(2)
    pool.publish(cached, b"h")
    pool.free([cached])
    pool.free([plain])
    assert pool.allocate(1) == [plain]


def test_the_end_of_a_chain_is_evicted_before_its_beginning():
    pool = BlockPool(2)
    blocks = pool.allocate(2)
    for block, block_hash in zip(blocks, [b"1", b"2"], strict=True):
        pool.publish(block, block_hash)
    pool.free(blocks)
    pool.allocate(1)
    assert pool.find([b"1", b"2"]) == [blocks[0]]


def test_a_lookup_ends_at_the_first_miss():
    pool = BlockPool(3)
    blocks = pool.allocate(2)
    pool.publish(blocks[0], b"1")
    pool.publish(blocks[1], b"3")
    assert pool.find([b"1", b"2", b"3"]) == [blocks[0]]


class BlockPoolMachine(RuleBasedStateMachine):
    """Random users of one pool; the model is who holds which blocks."""

    NUM_BLOCKS = 12

    def __init__(self):
        super().__init__()
        self.pool = BlockPool(self.NUM_BLOCKS)
        self.holdings = []

    @rule(count=st.integers(0, 5))
    def allocate(self, count):
        if count <= self.pool.num_free_blocks:
            self.holdings.append(self.pool.allocate(count))

    @precondition(lambda self: self.holdings)
    @rule(data=st.data(), number=st.integers(0, 30))
    def publish(self, data, number):
        blocks = data.draw(st.sampled_from(self.holdings))
        if blocks:
            self.pool.publish(data.draw(st.sampled_from(blocks)), number.to_bytes(2, "big"))

    @rule(numbers=st.lists(st.integers(0, 30), max_size=4))
    def hit(self, numbers):
        found = self.pool.find([number.to_bytes(2, "big") for number in numbers])
        self.pool.touch(found)
        self.holdings.append(found)

    @precondition(lambda self: self.holdings)
    @rule(data=st.data())
    def free(self, data):
        index = data.draw(st.integers(0, len(self.holdings) - 1))
        self.pool.free(self.holdings.pop(index))

    @rule()
    def forget_all(self):
        self.pool.forget_all()

    @invariant()
    def the_pool_is_sound(self):
        self.pool.check_integrity()

    @invariant()
    def no_block_is_lost(self):
        used = {block.block_id for blocks in self.holdings for block in blocks}
        assert self.pool.num_free_blocks == self.NUM_BLOCKS - len(used)


BlockPoolMachine.TestCase.settings = settings(stateful_step_count=30)
TestBlockPool = BlockPoolMachine.TestCase
