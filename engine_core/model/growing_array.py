"""An int32 array that grows at its end: tokens, block tables and counts of one request.

Used by `input_batch.py` and by the sampler's state. Invariant: `values` is a view of exactly what was appended.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]


class GrowingArray:
    """An int32 array with amortized appends."""

    def __init__(self, values: Sequence[int] | Int32Array) -> None:
        self._length = len(values)
        self._storage: Int32Array = np.empty(max(16, len(values) + 32), dtype=np.int32)
        self._storage[: self._length] = values

    def __len__(self) -> int:
        return self._length

    @property
    def values(self) -> Int32Array:
        """A view of the content, valid until the next append."""
        return self._storage[: self._length]

    def append(self, value: int) -> None:
        """Append one value."""
        self.extend((value,))

    def extend(self, values: Sequence[int]) -> None:
        """Append all of `values`."""
        end = self._length + len(values)
        if end > len(self._storage):
            storage = np.empty(max(end, 2 * len(self._storage)), dtype=np.int32)
            storage[: self._length] = self.values
            self._storage = storage
        self._storage[self._length : end] = values
        self._length = end
