"""Attention on a GPU: launches the kernels over a step's arrays.

Made by `engine_core/model/attention.py` for steps of any kind and by `decode_graphs.py` for its own arrays.
Rows that are only padding write nothing and give zeros. Next: `attention_kernels.py`, `step_arrays.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from engine_core.model.cuda.attention_kernels import attend_to_tile, merge_segments, write_to_cache
from engine_core.model.cuda.step_arrays import NARROW_BYTES, StepArrays, Tiles, Tiling
from engine_core.model.request_span import RequestSpan
from engine_core.model.step_spans import StepSpans


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """How a kernel is cut to the device; they change its speed alone."""

    num_keys: int
    """Of a step of its loop."""
    num_warps: int
    num_stages: int
    """Steps of the loop whose memory is asked for ahead."""


def short_options(head_bytes: int) -> LaunchOptions:
    """For decodes: measured on an H200 at 64 dimensions in bf16, and as many bytes elsewhere."""
    num_keys = 128 if head_bytes <= NARROW_BYTES // 2 else 64 if head_bytes <= NARROW_BYTES else 32
    return LaunchOptions(num_keys, num_warps=4, num_stages=3 if head_bytes <= NARROW_BYTES else 2)


def long_options(head_bytes: int) -> LaunchOptions:
    """For prompts."""
    return LaunchOptions(64 if head_bytes <= NARROW_BYTES else 32, num_warps=8, num_stages=2)


class TritonAttention:
    """Implements `StepAttention`."""

    def __init__(self, arrays: StepArrays, make_tiles: Callable[[Tiling], Tiles]) -> None:
        """`make_tiles` is called once for each number of heads that the model's layers have."""
        self.arrays = arrays
        self._make_tiles = make_tiles
        self._tiles: dict[Tiling, Tiles] = {}

    @classmethod
    def of(cls, spans: Sequence[RequestSpan], device: torch.device) -> "TritonAttention":
        """For a step whose flat batch holds `spans` one after the other."""
        columns = StepSpans.of(spans)
        return cls(StepArrays.of(columns, device), lambda tiling: Tiles.of(columns, tiling, device))

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """See `StepAttention.attend`."""
        num_tokens, num_kv_heads, head_dim = key.shape
        write_to_cache[(num_tokens, num_kv_heads)](
            *(keys, values, _dense(key), _dense(value), self.arrays.slots),
            *(_dense(key).stride(0), _dense(key).stride(1), _dense(value).stride(0), _dense(value).stride(1)),
            NUM_KV_HEADS=num_kv_heads,
            HEAD_DIM=head_dim,
            DIM_BLOCK=_power_of_two(head_dim),
            num_warps=1,
        )
        return self.read(_dense(query), keys, values, scale=scale, window=window, softcap=softcap)

    def read(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """`attend` where the step's keys and values are in the cache already."""
        output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        num_kv_heads = keys.shape[1]
        head_bytes = _power_of_two(query.shape[-1]) * query.element_size()
        tiling = Tiling(num_kv_heads, query.shape[1] // num_kv_heads, head_bytes)
        tiles = self._tiles_for(tiling)
        if tiles.short.shape[0]:
            _launch(
                *(output, query, keys, values, self.arrays, tiles.short, scale, window, softcap),
                rows=tiling.short_rows,
                queries=tiling.short_queries,
                segments=tiles.num_segments,
                options=short_options(head_bytes),
            )
        if tiles.long.shape[0]:
            _launch(
                *(output, query, keys, values, self.arrays, tiles.long, scale, window, softcap),
                rows=tiling.long_rows,
                queries=tiling.long_queries,
                segments=1,
                options=long_options(head_bytes),
            )
        return output

    def _tiles_for(self, tiling: Tiling) -> Tiles:
        tiles = self._tiles.get(tiling)
        if tiles is None:
            tiles = self._tiles[tiling] = self._make_tiles(tiling)
        return tiles


def _launch(
    output: torch.Tensor,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    arrays: StepArrays,
    tiles: torch.Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
    *,
    rows: int,
    queries: int,
    segments: int,
    options: LaunchOptions,
) -> None:
    _, num_heads, head_dim = query.shape
    num_kv_heads, dim_block = keys.shape[1], _power_of_two(head_dim)
    num_tiles = tiles.shape[0]
    partial_output = partial_maximum = partial_sum = output
    if segments > 1:
        shape = (num_tiles * queries, num_heads, segments)
        partial_output = torch.empty((*shape, dim_block), dtype=torch.float32, device=query.device)
        partial_maximum, partial_sum = torch.empty((2, *shape), dtype=torch.float32, device=query.device)
    attend_to_tile[(num_tiles, num_kv_heads, segments)](
        *(output, partial_output, partial_maximum, partial_sum, query, keys, values),
        *(tiles, arrays.query_starts, arrays.num_tokens, arrays.block_tables),
        *(scale, softcap or 0.0, window or 0),
        *(query.stride(0), query.stride(1), arrays.block_tables.stride(0)),
        NUM_KV_HEADS=num_kv_heads,
        GROUP=num_heads // num_kv_heads,
        HEAD_DIM=head_dim,
        DIM_BLOCK=dim_block,
        BLOCK_SIZE=arrays.block_size,
        ROWS=rows,
        QUERIES=queries,
        KEYS=options.num_keys,
        SEGMENTS=segments,
        HAS_SOFTCAP=softcap is not None,
        HAS_WINDOW=window is not None,
        num_warps=options.num_warps,
        num_stages=options.num_stages,
    )
    if segments > 1:
        merge_segments[(num_tiles * queries, num_heads)](
            *(output, partial_output, partial_maximum, partial_sum, tiles, arrays.query_starts),
            NUM_HEADS=num_heads,
            HEAD_DIM=head_dim,
            DIM_BLOCK=dim_block,
            QUERIES=queries,
            SEGMENTS=segments,
            num_warps=1 if dim_block <= 64 else 2,
        )


def _dense(states: torch.Tensor) -> torch.Tensor:
    """The kernels take any strides but that of the last dimension."""
    return states if states.stride(-1) == 1 else states.contiguous()


def _power_of_two(size: int) -> int:
    """The least one that is not smaller, and that matrix units take."""
    return max(16, 1 << (size - 1).bit_length())
