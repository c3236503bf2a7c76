"""Block tables of the running requests, and the prefix cache: the scheduler's only door to the KV cache.

Invariant: a table covers every computed token of its request (and may cover more, after a draft), and a block is only
ever written by one request: shared blocks are full ones, found through the prefix cache. Full blocks are published when
their tokens are *scheduled*, so that requests of one step share a prefix too; this is right because each layer writes
the keys and values of the whole step before it reads any. Where a step failed, a request whose blocks it did not write
must therefore be discarded, and with it all that share these blocks. Draft tokens are published once they are accepted.

It also knows which hashes the admitted requests have yet to publish, so that a request whose prefix is being computed
can wait for it instead of computing it too (`computing_request`).
"""

from collections import Counter
from collections.abc import Collection, Iterable
from itertools import takewhile

from engine_core.kv_cache.block import KVCacheBlock
from engine_core.kv_cache.block_hash import BlockHash, BlockHasher
from engine_core.kv_cache.block_pool import BlockPool
from engine_core.outputs import RequestKey
from engine_core.request import Request


class KVCacheManager:
    """Gives blocks to requests and takes them back."""

    def __init__(self, num_blocks: int, hasher: BlockHasher, *, enable_prefix_caching: bool) -> None:
        """`num_blocks`: 0 for a model that keeps nothing, whose requests need no blocks and always fit."""
        self.num_blocks = num_blocks
        self.block_size = hasher.block_size
        self._hasher = hasher
        self._enable_prefix_caching = enable_prefix_caching
        self._pool = BlockPool(num_blocks)
        self._tables: dict[RequestKey, list[KVCacheBlock]] = {}
        self._computing: dict[BlockHash, Request] = {}
        """Full blocks of known tokens that a request with a table has yet to compute; the first one is named."""

    @property
    def num_free_blocks(self) -> int:
        """Blocks that no request uses."""
        return self._pool.num_free_blocks

    def block_ids(self, request: Request) -> tuple[int, ...]:
        """The block table of a request."""
        return tuple(block.block_id for block in self._tables[request.key])

    def can_admit(self, request: Request, num_spare_blocks: int, *, without: Iterable[Request] = ()) -> bool:
        """True where `try_admit` would succeed, once the requests `without` have given up their blocks."""
        return self._fits(request, self._find_cached_prefix(request), num_spare_blocks, self._freed_by(without))

    def try_admit(self, request: Request, num_spare_blocks: int) -> int | None:
        """Start a block table that covers all known tokens of the request, with its cached prefix at the front.

        Returns the number of tokens found in the prefix cache (at least one token is always left to compute), or None
        if fewer than `num_spare_blocks` blocks would stay free.
        """
        cached = self._find_cached_prefix(request)
        if not self._fits(request, cached, num_spare_blocks):
            return None
        self._pool.touch(cached)
        num_new_blocks = self._num_blocks_for(request.num_tokens) - len(cached)
        self._tables[request.key] = cached + self._pool.allocate(num_new_blocks)
        if self._enable_prefix_caching:
            self._extend_hashes(request)
            for block_hash in request.block_hashes[len(cached) :]:
                self._computing.setdefault(block_hash, request)
        return len(cached) * self.block_size

    def computing_request(self, request: Request) -> Request | None:
        """The admitted request that has yet to compute the first block which this one would have to compute itself.

        The last block in a row that it computes is remembered (`awaited_hash`), so that a long shared prefix is not
        walked again in each step of the wait.
        """
        if not self._computing or not request.reads_prefix_cache:
            return None
        if request.awaited_hash is not None and request.awaited_hash in self._computing:
            return self._computing[request.awaited_hash]
        request.awaited_hash = None
        num_cached_blocks = len(self._find_cached_prefix(request))
        missing = request.block_hashes[num_cached_blocks : self._max_cached_blocks(request)]
        other = self._computing.get(missing[0]) if missing else None
        if other is not None:
            shared = takewhile(lambda block_hash: self._computing.get(block_hash) is other, missing)
            *_, request.awaited_hash = shared
        return other

    def num_missing_blocks(self, requests: Iterable[Request]) -> int:
        """Blocks that these need, all together, before their tables cover all their known tokens."""
        tables, block_size = self._tables, self.block_size
        num_missing = 0
        for request in requests:
            num_uncovered = len(request.token_ids) - len(tables[request.key]) * block_size
            if num_uncovered > 0:
                num_missing += self._num_blocks_for(num_uncovered)
        return num_missing

    def num_free_slots(self, request: Request, num_more_blocks: int = 0) -> int:
        """Tokens behind the known ones that the request's table covers, or would cover with so many more blocks."""
        num_blocks = len(self._tables[request.key]) + max(0, num_more_blocks)
        return num_blocks * self.block_size - len(request.token_ids)

    def extend(self, request: Request, num_draft_tokens: int = 0) -> tuple[int, ...]:
        """Make the request's table cover its known tokens and so many more, for which there must be blocks.

        Returns the new ones.
        """
        table = self._tables[request.key]
        num_tokens = len(request.token_ids) + num_draft_tokens
        if len(table) * self.block_size >= num_tokens:
            return ()
        blocks = self._pool.allocate(self._num_blocks_for(num_tokens) - len(table))
        table += blocks
        return tuple(block.block_id for block in blocks)

    def publish(self, request: Request, num_computed_tokens: int) -> None:
        """Let the prefix cache find the request's blocks that are full once this many tokens are computed."""
        first, end = request.num_computed_tokens // self.block_size, num_computed_tokens // self.block_size
        if first == end or not self._enable_prefix_caching:
            return
        self._extend_hashes(request)
        self._stop_computing(request, first, end)
        for block, block_hash in zip(
            self._tables[request.key][first:end], request.block_hashes[first:end], strict=True
        ):
            self._pool.publish(block, block_hash)

    def free(self, request: Request) -> None:
        """Give up the request's blocks; they stay in the prefix cache until they are handed out again."""
        self._stop_computing(request, request.num_computed_tokens // self.block_size, len(request.block_hashes))
        self._pool.free(self._tables.pop(request.key, []))

    def discard(self, request: Request) -> None:
        """Give up the request's blocks and hide them from the prefix cache: their content cannot be trusted."""
        for block in self._tables.get(request.key, []):
            self._pool.forget(block)
        self.free(request)

    def reset_prefix_cache(self) -> int:
        """Empty the prefix cache; returns how many blocks it held."""
        return self._pool.forget_all()

    def check_idle(self) -> None:
        """Raise `AssertionError` if blocks are in use although no request is: a leak. Only compares counts."""
        assert not self._tables, f"{len(self._tables)} block tables without a request"
        assert not self._computing, f"{len(self._computing)} blocks that nobody computes are waited for"
        assert self.num_free_blocks == self.num_blocks, f"{self.num_blocks - self.num_free_blocks} blocks leaked"

    def check_integrity(self) -> None:
        """Raise `AssertionError` if tables and pool contradict each other."""
        self._pool.check_integrity()
        num_uses: dict[int, int] = {}
        for table in self._tables.values():
            for block in table:
                num_uses[block.block_id] = num_uses.get(block.block_id, 0) + 1
        for block in self._pool.blocks:
            assert block.ref_count == num_uses.get(block.block_id, 0), f"block {block.block_id} is miscounted"

    def _fits(
        self, request: Request, cached: list[KVCacheBlock], num_spare_blocks: int, freed: Collection[int] = ()
    ) -> bool:
        """`freed`: ids of blocks that count as free although they are not yet."""
        if not self.num_blocks:
            return True
        num_new_blocks = self._num_blocks_for(request.num_tokens) - len(cached)
        num_cached_free = sum(block.ref_count == 0 or block.block_id in freed for block in cached)
        return num_new_blocks + num_spare_blocks <= self.num_free_blocks + len(freed) - num_cached_free

    def _freed_by(self, requests: Iterable[Request]) -> Collection[int]:
        """Ids of the blocks that nobody but these requests uses."""
        uses = Counter(block.block_id for request in requests for block in self._tables[request.key])
        blocks = self._pool.blocks
        return {block_id for block_id, count in uses.items() if blocks[block_id].ref_count == count}

    def _find_cached_prefix(self, request: Request) -> list[KVCacheBlock]:
        if not self._enable_prefix_caching or not request.reads_prefix_cache:
            return []
        self._extend_hashes(request)
        return self._pool.find(request.block_hashes[: self._max_cached_blocks(request)])

    def _extend_hashes(self, request: Request) -> None:
        self._hasher.extend(request.block_hashes, request.token_ids, request.cache_salt, request.adapter_fingerprint)

    def _max_cached_blocks(self, request: Request) -> int:
        return (request.num_tokens - 1) // self.block_size

    def _stop_computing(self, request: Request, first: int, end: int) -> None:
        for block_hash in request.block_hashes[first:end]:
            if self._computing.get(block_hash) is request:
                del self._computing[block_hash]

    def _num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size) if self.num_blocks else 0
