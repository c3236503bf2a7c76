"""Content hashes of full blocks, chained so that a hash stands for a block and all that came before it.

    hash[0] = H(seed, salt, tokens of block 0)        hash[i] = H(hash[i-1], tokens of block i)

H is BLAKE2b with 128 bits; `seed` is drawn at the start of each process, so that nobody can prepare a collision. What a
LoRA adapter computed is only for requests of that adapter: its fingerprint is the key of the first H.
Runs on the I/O thread for prompts, so that long ones do not hold up the step loop.
"""

import hashlib
import os
from array import array
from typing import NewType

BlockHash = NewType("BlockHash", bytes)

_DIGEST_BYTES = 16


class BlockHasher:
    """Hashes token ids block by block; one for each process."""

    def __init__(self, block_size: int, seed: bytes | None = None) -> None:
        self.block_size = block_size
        self._seed = os.urandom(_DIGEST_BYTES) if seed is None else seed

    def extend(
        self, hashes: list[BlockHash], token_ids: "array[int]", cache_salt: str, adapter_fingerprint: bytes = b""
    ) -> None:
        """Append the hashes of the full blocks of `token_ids` that `hashes` does not have yet.

        `adapter_fingerprint`: up to 64 bytes; none for the model itself.
        """
        for start in range(len(hashes) * self.block_size, len(token_ids) - self.block_size + 1, self.block_size):
            parent = hashes[-1] if hashes else self._root(cache_salt, adapter_fingerprint)
            content = token_ids[start : start + self.block_size].tobytes()
            hashes.append(BlockHash(hashlib.blake2b(parent + content, digest_size=_DIGEST_BYTES).digest()))

    def _root(self, cache_salt: str, adapter_fingerprint: bytes) -> bytes:
        content = self._seed + cache_salt.encode()
        return hashlib.blake2b(content, digest_size=_DIGEST_BYTES, key=adapter_fingerprint).digest()
