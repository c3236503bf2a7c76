"""Which tokens of a step have which adapter; there is none of it for a step without.

Made by `model_runner.py`, read by `torch_lora.py` and by the CPU kernels.
"""

from functools import cached_property

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]

NO_ADAPTER = -1
"""Where a token's adapter would be."""


class StepAdapters:
    """Adapters by their index among those that the network has."""

    def __init__(self, indices: Int32Array) -> None:
        """`[num_tokens]`: the adapter of each token of the flat batch, or `NO_ADAPTER`."""
        self.indices = np.ascontiguousarray(indices, dtype=np.int32)

    @cached_property
    def rows(self) -> dict[int, npt.NDArray[np.int64]]:
        """The rows of the flat batch of each adapter that the step has."""
        return {int(index): np.flatnonzero(self.indices == index) for index in np.unique(self.indices) if index >= 0}

    def tiles(self, max_rows: int) -> Int32Array:
        """`[num_tiles, 3]`: rows with one adapter that lie together, as first row, number (≤ `max_rows`), adapter."""
        indices = self.indices
        starts = np.flatnonzero(np.diff(indices, prepend=-2))
        lengths = np.diff(starts, append=len(indices))
        is_adapted = indices[starts] >= 0
        starts, lengths = starts[is_adapted], lengths[is_adapted]
        counts = -(-lengths // max_rows)
        ordinals = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        first = np.repeat(starts, counts) + ordinals * max_rows
        num_rows = np.minimum(np.repeat(starts + lengths, counts) - first, max_rows)
        return np.ascontiguousarray(np.stack([first, num_rows, indices[first]], axis=1), dtype=np.int32)
