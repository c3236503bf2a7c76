"""All blocks of the KV cache: who uses them, which are free, and which the prefix cache can find.

Invariants (checked by `check_integrity`): free + used = all; a free block has no users; a hash in the index belongs to
the block that it names. A free block keeps its content and its hash until it is handed out again, so there is no
separate pool of cached blocks: free means evictable.
"""

from collections.abc import Iterable, Sequence

from engine_core.kv_cache.block import FreeBlockQueue, KVCacheBlock
from engine_core.kv_cache.block_hash import BlockHash


class BlockPool:
    """Hands out blocks and takes them back."""

    def __init__(self, num_blocks: int) -> None:
        self.blocks = [KVCacheBlock(block_id) for block_id in range(num_blocks)]
        self._free = FreeBlockQueue(self.blocks)
        self._by_hash: dict[BlockHash, KVCacheBlock] = {}

    @property
    def num_free_blocks(self) -> int:
        """Blocks that `allocate` can hand out."""
        return self._free.num_blocks

    def find(self, hashes: Sequence[BlockHash]) -> list[KVCacheBlock]:
        """The cached blocks of the longest known prefix of this chain of hashes."""
        found = []
        for block_hash in hashes:
            block = self._by_hash.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def allocate(self, count: int) -> list[KVCacheBlock]:
        """Take `count` blocks, the least recently used first; what they held is forgotten. There must be enough."""
        taken = []
        for _ in range(count):
            block = self._free.pop_first()
            self.forget(block)
            block.ref_count = 1
            taken.append(block)
        return taken

    def touch(self, blocks: Iterable[KVCacheBlock]) -> None:
        """Use blocks that hold what a request needs; takes them out of the free queue where they are in it."""
        for block in blocks:
            if block.ref_count == 0:
                self._free.remove(block)
            block.ref_count += 1

    def free(self, blocks: Sequence[KVCacheBlock]) -> None:
        """Give up one use of each block, the last of the chain first, so that prefixes stay cached the longest."""
        for block in reversed(blocks):
            assert block.ref_count > 0, f"block {block.block_id} is freed twice"
            block.ref_count -= 1
            if block.ref_count == 0 and block.block_hash is None:
                self._free.prepend(block)  # nothing worth keeping: reuse it first
            elif block.ref_count == 0:
                self._free.append(block)

    def publish(self, block: KVCacheBlock, block_hash: BlockHash) -> None:
        """Let the prefix cache find a full block; the first block with a hash keeps it."""
        if block.block_hash is None and block_hash not in self._by_hash:
            block.block_hash = block_hash
            self._by_hash[block_hash] = block

    def forget(self, block: KVCacheBlock) -> None:
        """Hide a block from the prefix cache."""
        if block.block_hash is not None:
            del self._by_hash[block.block_hash]
            block.block_hash = None

    def forget_all(self) -> int:
        """Empty the prefix cache; returns how many blocks it held."""
        hashed = list(self._by_hash.values())
        for block in hashed:
            self.forget(block)
        return len(hashed)

    def check_integrity(self) -> None:
        """Raise `AssertionError` if an invariant of this module does not hold."""
        free_ids = self._free.block_ids()
        assert len(free_ids) == len(set(free_ids)) == self._free.num_blocks
        unused_ids = {block.block_id for block in self.blocks if block.ref_count == 0}
        assert unused_ids == set(free_ids), "free queue and reference counts differ"
        for block_hash, block in self._by_hash.items():
            assert block.block_hash == block_hash, f"block {block.block_id} is indexed under a foreign hash"
        assert len(self._by_hash) == sum(block.block_hash is not None for block in self.blocks)
