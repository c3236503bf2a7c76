import pytest

from engine_core.kv_cache.block import FreeBlockQueue, KVCacheBlock


def make_queue(count=4):
    blocks = [KVCacheBlock(block_id) for block_id in range(count)]
    return FreeBlockQueue(blocks), blocks


def test_blocks_come_out_in_the_order_in_which_they_became_free():
    queue, _ = make_queue()
    assert [queue.pop_first().block_id for _ in range(4)] == [0, 1, 2, 3]


def test_a_block_can_be_taken_out_of_the_middle():
    queue, blocks = make_queue()
    queue.remove(blocks[2])
    assert (queue.block_ids(), queue.num_blocks) == ([0, 1, 3], 3)


def test_a_prepended_block_comes_next():
    queue, blocks = make_queue()
    queue.remove(blocks[3])
    queue.prepend(blocks[3])
    assert queue.block_ids() == [3, 0, 1, 2]


def test_a_block_is_not_queued_twice():
    queue, blocks = make_queue()
    with pytest.raises(AssertionError, match="free already"):
        queue.append(blocks[1])


def test_an_empty_queue_gives_nothing():
    queue, _ = make_queue(0)
    with pytest.raises(AssertionError, match="no free block"):
        queue.pop_first()
