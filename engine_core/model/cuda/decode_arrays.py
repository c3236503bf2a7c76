"""The inputs of a batch of decodes at fixed places in memory, as a CUDA graph needs them.

A batch is padded to one of a few sizes (`graph_sizes`); a row that is only padding has no tokens and a negative slot.
Block tables stay on the device between steps, and only rows that changed are written: a request keeps its row as long
as the scheduler keeps its order. Filled by `decode_graphs.py`. Next: `step_arrays.py`.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from engine_core.model.cuda.step_arrays import StepArrays, Tiles, Tiling, aligned
from engine_core.model.growing_array import GrowingArray
from engine_core.model.input_batch import StepInputs


def graph_sizes(max_num_seqs: int) -> list[int]:
    """Batch sizes, rising: powers of two, from 16 on also halfway between them; the last holds `max_num_seqs`."""
    sizes, size = [1], 1
    while sizes[-1] < max_num_seqs:
        if size >= 16:
            sizes.append(size + size // 2)
        size *= 2
        sizes.append(size)
    while len(sizes) > 1 and sizes[-2] >= max_num_seqs:
        sizes.pop()
    return sizes


class DecodeArrays:
    """Inputs of up to `max_num_seqs` decodes."""

    def __init__(self, max_num_seqs: int, max_model_len: int, block_size: int, device: torch.device) -> None:
        self.sizes = graph_sizes(max_num_seqs)
        capacity = self.sizes[-1]
        self._max_model_len = max_model_len
        self._block_size = block_size
        is_cuda = device.type == "cuda"
        width = -(-max_model_len // block_size)
        self._host_columns = torch.zeros((4 * aligned(capacity),), dtype=torch.int32, pin_memory=is_cuda)
        self._host_tables = torch.zeros((capacity, width), dtype=torch.int32, pin_memory=is_cuda)
        self._columns = torch.zeros_like(self._host_columns, device=device)
        self._tables = torch.zeros_like(self._host_tables, device=device)
        self._query_starts = torch.arange(capacity + 1, dtype=torch.int32, device=device)
        requests = torch.arange(capacity, dtype=torch.int32, device=device)
        self._tiles = torch.stack([requests, torch.zeros_like(requests)], dim=1)
        self._rows: list[tuple[GrowingArray | None, int]] = [(None, 0)] * capacity
        """Whose block table a row of `_host_tables` holds, and how much of it."""
        self._copied = torch.Event(device) if is_cuda else None

    def try_fill(self, inputs: StepInputs) -> int | None:
        """Write a step in which every request computes one token and samples; None for other and larger ones.

        Returns:
            the size of the batch with padding.
        """
        num_tokens = len(inputs.input_ids)
        is_decode = num_tokens == len(inputs.spans) == len(inputs.sampling_requests)
        if not is_decode or num_tokens > self.sizes[-1]:
            return None
        size = next(size for size in self.sizes if size >= num_tokens)
        self.fill(size, inputs.input_ids, inputs.positions, [item.block_table for item in inputs.sampling_requests])
        return size

    def fill(
        self,
        size: int,
        input_ids: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        tables: Sequence[GrowingArray],
    ) -> None:
        """Write a batch of decodes, padded to `size` rows.

        Args:
            size: of the batch with padding.
            input_ids: `[num_requests]`.
            positions: `[num_requests]`: of these tokens.
            tables: the block table of each request.
        """
        if self._copied is not None:
            self._copied.synchronize()  # the device has read what is overwritten here
        num_requests = len(tables)
        self._fill_tables(tables)
        height = aligned(size)
        columns = self._host_columns.numpy()[: 4 * height].reshape(4, height)
        columns[0, :num_requests] = input_ids
        columns[1, :num_requests] = positions
        blocks = self._host_tables.numpy()[np.arange(num_requests), positions // self._block_size]
        columns[2, :num_requests] = blocks * self._block_size + positions % self._block_size
        columns[3, :num_requests] = positions + 1
        columns[:, num_requests:] = np.array([[0], [0], [-1], [0]], dtype=np.int32)
        self._columns[: 4 * height].copy_(self._host_columns[: 4 * height], non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def _fill_tables(self, tables: Sequence[GrowingArray]) -> None:
        host, first, last = self._host_tables.numpy(), len(tables), -1
        for row, table in enumerate(tables):
            owner, num_blocks = self._rows[row]
            if owner is not table or num_blocks != len(table):
                num_blocks = min(len(table), host.shape[1])
                host[row, :num_blocks] = table.values[:num_blocks]
                self._rows[row] = (table, len(table))
                first, last = min(first, row), row
        if last >= first:
            changed = slice(first, last + 1)
            self._tables[changed].copy_(self._host_tables[changed], non_blocking=True)

    def views(self, size: int) -> tuple[torch.Tensor, torch.Tensor, StepArrays]:
        """What a batch of `size` rows reads: token ids and positions `[size]`, and where its tokens lie."""
        height = aligned(size)
        input_ids, positions, slots, num_tokens = self._columns[: 4 * height].view(4, height)[:, :size]
        arrays = StepArrays(slots, self._query_starts[: size + 1], num_tokens, self._tables[:size], self._block_size)
        return input_ids, positions, arrays

    def tiles(self, size: int, tiling: Tiling) -> Tiles:
        """One for each row."""
        return Tiles(self._tiles[:size], self._tiles[:0], tiling.num_segments(size, self._max_model_len))
