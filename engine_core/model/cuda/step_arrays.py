"""The arrays of one step that the attention kernels read, laid out on the host and copied to the device at once.

`StepArrays` tell where tokens lie, `Tiles` how the work is cut; `decode_arrays.py` has both for batches of decodes.
Queries are computed in tiles: `short` ones for requests whose queries fit into the smallest tile (decodes, drafts),
whose keys are divided among segments where few tiles would leave most of the device idle, and `long` ones for prompts.
Next: `attention.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from engine_core.model.step_spans import StepSpans

SHORT_ROWS = 16
"""Least rows of a tile that matrix units multiply; a row is one query of one query head."""
LONG_ROWS = 128
"""Of a tile for prompts, where a head has at most `NARROW_BYTES`; else less, as shared memory is limited."""
NARROW_BYTES = 256
PROGRAMS_WANTED = 512
"""Tiles, KV heads and segments together that keep a large GPU busy."""
MIN_SEGMENT_TOKENS = 128
SEGMENT_CHOICES = (1, 4, 16)
"""Each is compiled at the start (`warm_up.py`)."""

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tiling:
    """How the query heads of a model fill tiles."""

    num_kv_heads: int
    group: int
    """Query heads of a KV head."""
    head_bytes: int
    """Of one head of one token, as the kernels hold it."""

    @property
    def short_rows(self) -> int:
        """Rows of a short tile, a power of two."""
        return max(SHORT_ROWS, 1 << (self.group - 1).bit_length())

    @property
    def short_queries(self) -> int:
        """Queries of a short tile."""
        return self.short_rows // self.group

    @property
    def long_rows(self) -> int:
        """Rows of a long tile, a power of two."""
        return max(LONG_ROWS * NARROW_BYTES // max(self.head_bytes, NARROW_BYTES), self.short_rows)

    @property
    def long_queries(self) -> int:
        """Queries of a long tile."""
        return self.long_rows // self.group

    def num_segments(self, num_tiles: int, max_num_tokens: int) -> int:
        """Into how many segments the keys of short tiles are divided; one of `SEGMENT_CHOICES`."""
        wanted = PROGRAMS_WANTED // (max(num_tiles, 1) * self.num_kv_heads)
        useful = -(-max_num_tokens // MIN_SEGMENT_TOKENS)
        return max(choice for choice in SEGMENT_CHOICES if choice <= max(1, min(wanted, useful)))


@dataclass(frozen=True, slots=True)
class Tiles:
    """Which program computes which queries; each array is `[num_tiles, 2]` int32: a request, and its first query."""

    short: torch.Tensor
    long: torch.Tensor
    num_segments: int
    """Of short tiles."""

    @classmethod
    def of(cls, spans: StepSpans, tiling: Tiling, device: torch.device) -> "Tiles":
        """Tiles of a step."""
        is_short = spans.num_queries <= tiling.short_queries
        short = _tiles(np.flatnonzero(is_short), spans.num_queries, tiling.short_queries)
        long = _tiles(np.flatnonzero(~is_short), spans.num_queries, tiling.long_queries)
        longest = int(spans.num_tokens[is_short].max(initial=0))
        on_device = _copy([short, long], device)
        return cls(on_device[0], on_device[1], tiling.num_segments(len(short), longest))


@dataclass(frozen=True, slots=True)
class StepArrays:
    """What does not depend on the model's heads; on the device, int32."""

    slots: torch.Tensor
    """`[num_tokens]`: where each token's key and value go; negative for rows that are only padding."""
    query_starts: torch.Tensor
    """`[num_requests + 1]`."""
    num_tokens: torch.Tensor
    """`[num_requests]`: of each request, with this step's; 0 for rows that are only padding."""
    block_tables: torch.Tensor
    """`[num_requests, max_blocks]`."""
    block_size: int

    @classmethod
    def of(cls, spans: StepSpans, device: torch.device) -> "StepArrays":
        """The arrays of a step."""
        query_starts = np.append(spans.query_starts, spans.num_queries.sum()).astype(np.int32)
        width = -(-int(spans.num_tokens.max()) // spans.block_size)
        tables = spans.block_table[spans.rows, :width]
        on_device = _copy([slots_of(spans), query_starts, spans.num_tokens, tables], device)
        return cls(on_device[0], on_device[1], on_device[2], on_device[3], spans.block_size)


def slots_of(spans: StepSpans) -> Int32Array:
    """`[num_tokens]`: of each token of the flat batch."""
    positions = spans.positions
    rows = spans.rows if spans.are_single else np.repeat(spans.rows, spans.num_queries)
    blocks = spans.block_table[rows, positions // spans.block_size]
    return (blocks * spans.block_size + positions % spans.block_size).astype(np.int32)


def _tiles(requests: npt.NDArray[np.intp], num_queries: Int32Array, size: int) -> Int32Array:
    """`[num_tiles, 2]`: requests divided into tiles of `size` queries; those that see most come first."""
    counts = -(-num_queries[requests] // size)
    request = np.repeat(requests, counts)
    number = np.arange(len(request)) - np.repeat(np.cumsum(counts) - counts, counts)
    order = np.argsort(-number, kind="stable")
    return np.stack([request, number * size], axis=1).astype(np.int32)[order]


def _copy(arrays: Sequence[Int32Array], device: torch.device) -> list[torch.Tensor]:
    """All arrays to the device in one copy; views of it, in their shapes, each at a multiple of 16 bytes.

    Triton compiles a kernel anew for pointers that are not.
    """
    starts = np.cumsum([0, *(aligned(array.size) for array in arrays)])
    packed = np.zeros(starts[-1], dtype=np.int32)
    for start, array in zip(starts, arrays, strict=False):
        packed[start : start + array.size] = array.reshape(-1)
    copied = torch.from_numpy(packed).to(device)
    places = zip(starts.tolist(), arrays, strict=False)
    return [copied[start : start + array.size].view(array.shape) for start, array in places]


def aligned(num_values: int) -> int:
    """The least number of int32 values that is not less and fills multiples of 16 bytes."""
    return -(-num_values // 4) * 4
