"""The blocks of one simulated core and what its prefix cache holds: `BlockPool` without the blocks.

A block is an integer that stands for its content and all before it (`tokens.py`). As in the engine, a free block keeps
its content until it is handed out again, blocks without content are handed out first, and of the others the least
recently used. Invariant: blank + free + used = all.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice

BlockId = int


class PrefixCache:
    """Counts of blocks, and the content of those that are full."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._num_blank = num_blocks
        """Free blocks without content that anybody could find."""
        self._num_private = 0
        """Used blocks that are not full, or whose content is in another block already."""
        self._num_users: dict[BlockId, int] = {}
        """Of blocks that are in use and can be found."""
        self._free: OrderedDict[BlockId, None] = OrderedDict()
        """Those that can be found and nobody uses, the least recently used first."""

    @property
    def num_free_blocks(self) -> int:
        """Blocks that nobody uses."""
        return self._num_blank + len(self._free)

    def count_cached(self, block_ids: Sequence[BlockId], limit: int) -> int:
        """How many of the first `limit` blocks can be found, from the first one on."""
        num_users, free = self._num_users, self._free
        count = 0
        for block_id in islice(block_ids, limit):
            if block_id not in num_users and block_id not in free:
                break
            count += 1
        return count

    def count_cached_free(self, block_ids: Iterable[BlockId]) -> int:
        """How many of these nobody uses at the moment."""
        free = self._free
        return sum([block_id in free for block_id in block_ids])

    def touch(self, block_ids: Iterable[BlockId]) -> None:
        """Use blocks that were found."""
        num_users, free = self._num_users, self._free
        for block_id in block_ids:
            if block_id in num_users:
                num_users[block_id] += 1
            else:
                del free[block_id]
                num_users[block_id] = 1

    def allocate(self, count: int) -> None:
        """Take so many blocks, of which there must be enough."""
        from_blank = min(count, self._num_blank)
        self._num_blank -= from_blank
        self._num_private += count
        for _ in range(count - from_blank):
            self._free.popitem(last=False)

    def publish(self, block_id: BlockId) -> bool:
        """A block that was allocated is full; False where its content can be found already, in another block."""
        if block_id in self._num_users or block_id in self._free:
            return False
        self._num_users[block_id] = 1
        self._num_private -= 1
        return True

    def release(self, block_ids: Sequence[BlockId], num_private: int) -> None:
        """Give up blocks that were touched or published, the last one first, and private ones."""
        num_users, free = self._num_users, self._free
        for block_id in reversed(block_ids):
            count = num_users[block_id]
            if count == 1:
                del num_users[block_id]
                free[block_id] = None
            else:
                num_users[block_id] = count - 1
        self._num_private -= num_private
        self._num_blank += num_private

    def check(self) -> None:
        """Raise `AssertionError` if the invariant does not hold."""
        assert self._num_private >= 0
        assert self._num_blank >= 0
        num_all = self._num_blank + len(self._free) + len(self._num_users) + self._num_private
        assert num_all == self.num_blocks, f"{num_all} blocks of {self.num_blocks}"
        assert not self._num_users.keys() & self._free.keys()
