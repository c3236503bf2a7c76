"""What a decode step needs of each request, in arrays: a request has one row from its first step to its last.

Kept by `input_batch.py`. Invariant: for a request in row r, `block_table[r, :num_blocks[r]]` are its blocks, and
`last_token_ids[r]` is the last of its `num_tokens[r]` known tokens; free rows mean nothing. The arrays grow, so they
are to be read anew in each step. Next: `step_spans.py`.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from engine_core.model.lora.step_adapters import NO_ADAPTER

Int32Array = npt.NDArray[np.int32]

_FIRST_NUM_ROWS = 16
_FIRST_NUM_BLOCKS = 64
"""Of a row."""


class BatchRows:
    """The rows of all requests that the runner keeps."""

    def __init__(self) -> None:
        self.block_table: Int32Array = np.zeros((_FIRST_NUM_ROWS, _FIRST_NUM_BLOCKS), dtype=np.int32)
        """`[num_rows, most blocks of a row]`."""
        self.num_blocks: Int32Array = np.zeros(_FIRST_NUM_ROWS, dtype=np.int32)
        self.num_tokens: Int32Array = np.zeros(_FIRST_NUM_ROWS, dtype=np.int32)
        self.last_token_ids: Int32Array = np.zeros(_FIRST_NUM_ROWS, dtype=np.int32)
        self.adapters: Int32Array = np.full(_FIRST_NUM_ROWS, NO_ADAPTER, dtype=np.int32)
        """Index of each request's adapter."""
        self._free = list(reversed(range(_FIRST_NUM_ROWS)))

    def add(self, token_ids: Sequence[int], block_ids: Sequence[int], adapter: int = NO_ADAPTER) -> int:
        """Take in a request; returns its row."""
        if not self._free:
            self._grow_rows()
        row = self._free[-1]
        self.num_blocks[row] = 0
        self.num_tokens[row] = len(token_ids)
        self.last_token_ids[row] = token_ids[-1] if token_ids else 0
        self.adapters[row] = adapter
        self.extend_blocks(row, block_ids)
        self._free.pop()  # last, so that no row is lost where memory runs out
        return row

    def remove(self, row: int) -> None:
        """Let go of a request's row."""
        self._free.append(row)

    def extend_blocks(self, row: int, block_ids: Sequence[int]) -> None:
        """Append to a block table."""
        first = int(self.num_blocks[row])
        end = first + len(block_ids)
        if end > self.block_table.shape[1]:
            missing = max(end, 2 * self.block_table.shape[1]) - self.block_table.shape[1]
            self.block_table = np.pad(self.block_table, ((0, 0), (0, missing)))
        self.block_table[row, first:end] = block_ids
        self.num_blocks[row] = end

    def append_tokens(self, rows: Sequence[int], token_ids: Sequence[int]) -> None:
        """One more token for each of these rows, which are different ones."""
        index = np.array(rows, dtype=np.intp)
        self.num_tokens[index] += 1
        self.last_token_ids[index] = token_ids

    def _grow_rows(self) -> None:
        num_rows = len(self.num_blocks)
        self.block_table = np.pad(self.block_table, ((0, num_rows), (0, 0)))
        self.num_blocks, self.num_tokens, self.last_token_ids, self.adapters = (
            np.pad(column, (0, num_rows))
            for column in (self.num_blocks, self.num_tokens, self.last_token_ids, self.adapters)
        )
        self._free += reversed(range(num_rows, 2 * num_rows))
