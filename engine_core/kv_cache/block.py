"""A block of the KV cache, and the queue of free ones.

Invariant: a block is in the free queue if and only if its `ref_count` is 0.
"""

from dataclasses import dataclass, field
from typing import Optional

from engine_core.kv_cache.block_hash import BlockHash


@dataclass(slots=True, eq=False)
class KVCacheBlock:
    """Room for the keys and values of `block_size` tokens."""

    block_id: int
    ref_count: int = 0
    """Requests that use it now."""
    block_hash: BlockHash | None = None
    """Set while the prefix cache can find it: it is full, and this hash stands for its content."""
    previous_free: Optional["KVCacheBlock"] = field(default=None, repr=False)
    next_free: Optional["KVCacheBlock"] = field(default=None, repr=False)


class FreeBlockQueue:
    """Free blocks, least recently freed first: a linked list through the blocks, so that every operation is O(1).

    After vLLM's FreeKVCacheBlockQueue: a hit in the prefix cache takes a block out of the middle.
    """

    def __init__(self, blocks: list[KVCacheBlock]) -> None:
        self.num_blocks = 0
        self._head = KVCacheBlock(-1)
        self._tail = KVCacheBlock(-1)
        self._head.next_free, self._tail.previous_free = self._tail, self._head
        for block in blocks:
            self.append(block)

    def pop_first(self) -> KVCacheBlock:
        """Take the block that has been free the longest; there must be one."""
        first = self._head.next_free
        assert first is not None
        assert first is not self._tail, "no free block"
        self.remove(first)
        return first

    def append(self, block: KVCacheBlock) -> None:
        """Queue a block at the end: it is reused last."""
        assert self._tail.previous_free is not None
        self._insert(block, self._tail.previous_free, self._tail)

    def prepend(self, block: KVCacheBlock) -> None:
        """Queue a block at the front: it is reused first."""
        assert self._head.next_free is not None
        self._insert(block, self._head, self._head.next_free)

    def remove(self, block: KVCacheBlock) -> None:
        """Take this block out, wherever it is."""
        previous, following = block.previous_free, block.next_free
        assert previous is not None, f"block {block.block_id} is not free"
        assert following is not None
        previous.next_free, following.previous_free = following, previous
        block.previous_free = block.next_free = None
        self.num_blocks -= 1

    def block_ids(self) -> list[int]:
        """Ids in queue order; for checks."""
        ids, block = [], self._head.next_free
        while block is not None and block is not self._tail:
            ids.append(block.block_id)
            block = block.next_free
        return ids

    def _insert(self, block: KVCacheBlock, previous: KVCacheBlock, following: KVCacheBlock) -> None:
        assert block.previous_free is None, f"block {block.block_id} is free already"
        block.previous_free, block.next_free = previous, following
        previous.next_free = following.previous_free = block
        self.num_blocks += 1
