"""The inputs of a batch of decodes at fixed places in memory, as a CUDA graph needs them.

A batch is padded to one of a few sizes (`graph_sizes`); a row that is only padding has no tokens and a negative slot.
Block tables stay on the device between steps, and only rows that changed are copied. Filled by `decode_graphs.py`.
Next: `step_arrays.py`.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from engine_core.model.cuda.step_arrays import Int32Array, StepArrays, Tiles, Tiling, aligned
from engine_core.model.input_batch import StepInputs
from engine_core.model.step_spans import StepSpans

_PADDING: Int32Array = np.array([[0], [0], [-1], [0]], dtype=np.int32)
"""Token id, position, slot and length of a row that is only padding."""


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


@dataclass(frozen=True, slots=True)
class _Columns:
    """Token ids, positions, slots and lengths of a batch of one size, one after the other."""

    values: Int32Array
    """`[4, size]`, on the host, in the memory of `on_host`."""
    on_host: torch.Tensor
    on_device: torch.Tensor

    @classmethod
    def of(cls, size: int, on_host: torch.Tensor, on_device: torch.Tensor) -> "_Columns":
        """At the beginning of memory that all sizes share."""
        height = aligned(size)
        values = on_host.numpy()[: 4 * height].reshape(4, height)[:, :size]
        return cls(values, on_host[: 4 * height], on_device[: 4 * height])


class DecodeArrays:
    """Inputs of up to `max_num_seqs` decodes."""

    def __init__(self, max_num_seqs: int, max_model_len: int, block_size: int, device: torch.device) -> None:
        self.sizes = graph_sizes(max_num_seqs)
        capacity = self.sizes[-1]
        self._max_model_len = max_model_len
        self._block_size = block_size
        is_cuda = device.type == "cuda"
        width = -(-max_model_len // block_size)
        host_columns = torch.zeros((4 * aligned(capacity),), dtype=torch.int32, pin_memory=is_cuda)
        device_columns = torch.zeros_like(host_columns, device=device)
        self._columns = {size: _Columns.of(size, host_columns, device_columns) for size in self.sizes}
        self._host_tables = torch.zeros((capacity, width), dtype=torch.int32, pin_memory=is_cuda)
        self._held_tables: Int32Array = self._host_tables.numpy()
        self._tables = torch.zeros_like(self._host_tables, device=device)
        self._row_numbers = np.arange(capacity)
        self._query_starts = torch.arange(capacity + 1, dtype=torch.int32, device=device)
        requests = torch.arange(capacity, dtype=torch.int32, device=device)
        self._tiles = torch.stack([requests, torch.zeros_like(requests)], dim=1)
        self._copied = torch.Event(device) if is_cuda else None

    def try_fill(self, inputs: StepInputs) -> int | None:
        """Write a step in which every request computes one token and samples; None for other and larger ones.

        Returns:
            the size of the batch with padding.
        """
        spans = inputs.spans
        is_decode = spans.are_single and len(inputs.sampling_requests) == len(spans)
        if not is_decode or len(spans) > self.sizes[-1]:
            return None
        size = next(size for size in self.sizes if size >= len(spans))
        self.fill(size, inputs.input_ids, spans)
        return size

    def fill(self, size: int, input_ids: npt.NDArray[np.int64], spans: StepSpans) -> None:
        """Write a batch of decodes with tokens `[num_requests]`, padded to `size` rows."""
        if self._copied is not None:
            self._copied.synchronize()  # the device has read what is overwritten here
        columns, num_requests = self._columns[size], len(spans)
        ids, positions, slots, num_tokens = columns.values
        if num_requests:
            computed = spans.num_computed_tokens
            tables = self._fill_tables(spans)
            blocks = tables[self._row_numbers[:num_requests], computed // self._block_size]
            ids[:num_requests], positions[:num_requests] = input_ids, computed
            slots[:num_requests] = blocks * self._block_size + computed % self._block_size
            num_tokens[:num_requests] = spans.num_tokens
        if num_requests < size:
            columns.values[:, num_requests:] = _PADDING
        columns.on_device.copy_(columns.on_host, non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def _fill_tables(self, spans: StepSpans) -> Int32Array:
        """Copy the rows that changed; returns the tables of the batch."""
        width = -(-int(spans.num_tokens.max()) // self._block_size)
        tables, held = spans.block_table[spans.rows, :width], self._held_tables[: len(spans), :width]
        is_changed = tables != held
        if is_changed.any():
            changed = np.flatnonzero(is_changed.any(axis=1))
            held[changed] = tables[changed]
            rows = slice(int(changed[0]), int(changed[-1]) + 1)
            try:
                self._tables[rows].copy_(self._host_tables[rows], non_blocking=True)
            except RuntimeError:
                held[changed] = -1  # who comes next must not take for copied what was not
                raise
        return tables

    def views(self, size: int) -> tuple[torch.Tensor, torch.Tensor, StepArrays]:
        """What a batch of `size` rows reads: token ids and positions `[size]`, and where its tokens lie."""
        input_ids, positions, slots, num_tokens = self._columns[size].on_device.view(4, -1)[:, :size]
        arrays = StepArrays(slots, self._query_starts[: size + 1], num_tokens, self._tables[:size], self._block_size)
        return input_ids, positions, arrays

    def tiles(self, size: int, tiling: Tiling) -> Tiles:
        """One for each row."""
        return Tiles(self._tiles[:size], self._tiles[:0], tiling.num_segments(size, self._max_model_len))
