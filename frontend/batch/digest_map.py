"""A map from texts to small integers that takes 17 to 25 bytes for an entry, whatever the length of the texts.

Open addressing over 128-bit digests in flat arrays: a million `custom_id`s take 36 MB at most, where a set of strings
would take 130 and more. Two texts with one digest are taken for the same one; for a billion texts the chance of that is
less than 1e-20. Used by `ledger.py` and `input_order.py`.
"""

import hashlib
import struct
from array import array

_DIGEST = struct.Struct("<QQ")
_FIRST_CAPACITY = 1024
_MAX_LOAD = 2 / 3


class DigestMap:
    """Texts to values greater than 0."""

    def __init__(self, typecode: str = "B") -> None:
        """`typecode` is that of the values, as in `array`: unsigned."""
        self._typecode = typecode
        self._num_entries = 0
        self._allocate(_FIRST_CAPACITY)

    def __len__(self) -> int:
        return self._num_entries

    def get(self, text: str) -> int:
        """The value of a text; 0 where it has none."""
        return int(self._values[self._slot(*_digest_of(text))])

    def set(self, text: str, value: int) -> None:
        """Give a text a value greater than 0."""
        low, high = _digest_of(text)
        slot = self._slot(low, high)
        if not self._values[slot]:
            if self._num_entries >= self._limit:
                self._grow()
                slot = self._slot(low, high)
            self._num_entries += 1
            self._lows[slot], self._highs[slot] = low, high
        self._values[slot] = value

    def _slot(self, low: int, high: int) -> int:
        """Where this digest is, or where it would be put."""
        lows, highs, values, mask = self._lows, self._highs, self._values, self._mask
        slot = low & mask
        while values[slot] and (lows[slot] != low or highs[slot] != high):
            slot = (slot + 1) & mask
        return slot

    def _allocate(self, capacity: int) -> None:
        """`capacity` is a power of two."""
        self._mask = capacity - 1
        self._limit = int(capacity * _MAX_LOAD)
        self._lows, self._highs = (array("Q", bytes(8 * capacity)) for _ in range(2))
        self._values = array(self._typecode, bytes(array(self._typecode).itemsize * capacity))

    def _grow(self) -> None:
        entries = zip(self._lows, self._highs, self._values, strict=True)
        self._allocate(2 * (self._mask + 1))
        for low, high, value in entries:
            if value:
                slot = self._slot(low, high)
                self._lows[slot], self._highs[slot], self._values[slot] = low, high, value


def _digest_of(text: str) -> tuple[int, int]:
    low, high = _DIGEST.unpack(hashlib.blake2b(text.encode(), digest_size=16).digest())
    return low, high
