"""A prompt as the hashes of its beginnings.

Prompts that begin with the same blocks have the same first hashes. Depths are counted in blocks and grow by half or a
third (`DEPTHS`): 14 hashes tell 4,000 tokens, and where two prompts part between two depths, at most a third of
what they share is not seen. Hashes are CRC-32, each going on from the one before, so that all of them together read
the prompt once: they are the same in every process, cost nearly nothing, and a collision costs one computed prefix.
The prefix cache itself (`engine_core/kv_cache/block_hash.py`) never relies on them.
"""

from bisect import bisect_right
from zlib import crc32

from ipc.messages import Add

DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""In blocks, rising."""

_TOKEN_BYTES = 4


class PrefixPath:
    """The beginnings of one prompt, with its salt and adapter."""

    __slots__ = ("_block_bytes", "_bytes", "_seed", "hashes", "num_blocks")

    def __init__(self, add: Add, block_size: int) -> None:
        tokens = add.prompt_token_ids
        self.num_blocks = num_blocks = len(tokens) // block_size
        """Whole blocks."""
        self._block_bytes = block_bytes = block_size * _TOKEN_BYTES
        self._bytes = view = memoryview(tokens).cast("B")
        self._seed = value = _seed_of(add) if add.cache_salt or add.adapter else 0
        self.hashes = hashes = [0] * bisect_right(DEPTHS, num_blocks)
        """Of the first `DEPTHS[i]` blocks, for all depths that the prompt has."""
        start = 0
        for level in range(len(hashes)):
            end = DEPTHS[level] * block_bytes
            hashes[level] = value = crc32(view[start:end], value)
            start = end

    def hash_between(self, level: int, num_blocks: int) -> int:
        """The hash of the first `num_blocks` blocks, which are more than `DEPTHS[level]`."""
        start, end = DEPTHS[level] * self._block_bytes, num_blocks * self._block_bytes
        return crc32(self._bytes[start:end], self.hashes[level])

    def bytes_after(self, level: int, num_more_tokens: int) -> bytes:
        """The tokens from `DEPTHS[level]` to the next depth, and so many more."""
        depth = DEPTHS[level]
        next_depth = DEPTHS[level + 1] if level + 1 < len(DEPTHS) else 2 * depth
        start, end = depth * self._block_bytes, next_depth * self._block_bytes + num_more_tokens * _TOKEN_BYTES
        return bytes(self._bytes[start:end])

    def hash_of_all(self) -> int:
        """The hash of the whole prompt, to the last token."""
        return crc32(self._bytes, self._seed)


def _seed_of(add: Add) -> int:
    salt = add.cache_salt.encode(errors="surrogatepass")
    return crc32(add.adapter.encode(errors="surrogatepass"), crc32(salt, len(salt) + 1))
