"""The least that a decode step takes here: oneDNN's packed linear layers in step order, and memory read once.

Used by `scripts/bench_floor.py`, beside the engine's own steps. The linear layers have the sizes of a model and random
weights, each layer its own, so that all of them come from memory as in a step. Invariant: nothing but the products is
in the floor: no norms, no conversions, no attention but the reading of keys and values.
"""

from collections.abc import Callable
from typing import Literal

import torch

from engine_core.model.decoder.config import DecoderConfig

Quantization = Literal["none", "int8", "int8-dynamic"]
_LinearLayer = Callable[[], torch.Tensor]
"""Multiplies its rows."""

_BUFFER_BYTES = 256 * 2**20
"""Many times what caches hold."""
_SEED = 1


class LinearFloor:
    """All linear layers of a model, packed by oneDNN.

    With int8 weights the layers multiply int8 by int8, since oneDNN has no faster form; the head too where the engine
    keeps it in int8.
    """

    def __init__(self, config: DecoderConfig, dtype: torch.dtype, quantization: Quantization, num_rows: int) -> None:
        """Packed for, and multiplied with, `num_rows` rows."""
        hidden, intermediate = config.hidden_size, config.intermediate_size
        attended = config.num_heads * config.head_dim
        qkv = attended + 2 * config.num_kv_heads * config.head_dim
        shapes = (
            (qkv, hidden),
            (hidden, attended),
            ((1 + config.has_gate) * intermediate, hidden),
            (hidden, intermediate),
        )
        generator = torch.Generator().manual_seed(_SEED)
        make = _make_float if quantization == "none" else _make_int8
        self._layers = [make(shape, dtype, num_rows, generator) for _ in range(config.num_layers) for shape in shapes]
        make = _make_int8 if quantization == "int8" else _make_float
        self._head = make((config.vocab_size, hidden), dtype, num_rows, generator)

    def run_layers(self) -> None:
        """Multiply layer after layer."""
        for layer in self._layers:
            layer()

    def run_head(self) -> None:
        """Multiply the head."""
        self._head()


class MemoryReader:
    """Reads a buffer that no cache holds, with all threads."""

    num_bytes = _BUFFER_BYTES

    def __init__(self) -> None:
        self._buffer = torch.ones(_BUFFER_BYTES // 8, dtype=torch.int64)

    def read(self) -> None:
        """Read all of it; of torch's operations, the sum of whole numbers read fastest."""
        self._buffer.sum()


def kv_bytes(config: DecoderConfig, dtype: torch.dtype, num_seqs: int, context: int) -> int:
    """Keys and values that a decode step reads: of each layer, as far back as it sees."""
    num_tokens = sum(min(context, window or context) for window in config.sliding_windows)
    return 2 * num_seqs * num_tokens * config.num_kv_heads * config.head_dim * dtype.itemsize


def _make_float(shape: tuple[int, int], dtype: torch.dtype, num_rows: int, generator: torch.Generator) -> _LinearLayer:
    rows = torch.randn(num_rows, shape[1], generator=generator).to(dtype)
    weight = torch.randn(shape, generator=generator).to(dtype)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, num_rows)

    def multiply() -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], "")
        return product

    return multiply


def _make_int8(shape: tuple[int, int], dtype: torch.dtype, num_rows: int, generator: torch.Generator) -> _LinearLayer:
    rows = torch.randint(0, 255, (num_rows, shape[1]), generator=generator, dtype=torch.uint8)
    weight = torch.randint(-127, 127, shape, generator=generator, dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, [num_rows, shape[1]])
    scales, zero_points = torch.ones(shape[0]), torch.zeros(shape[0], dtype=torch.int64)

    def multiply() -> torch.Tensor:
        quantized = (rows, 1.0, 128, packed, scales, zero_points, None)
        product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(*quantized, 1.0, 0, dtype, "none", [], "")
        return product

    return multiply
