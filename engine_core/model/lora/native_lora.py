"""LoRA adapters as the CPU kernels take them (`kernels/src/lora.h`).

Used by `decoder/native_network.py`, one for each network. Invariant: it owns every tensor that its structs point to.
"""

from collections.abc import Sequence

import torch

from engine_core.model.decoder.config import DecoderConfig
from engine_core.model.kernels import bindings
from engine_core.model.kernels.bindings import MAX_TILE_ROWS, Format, stride_of
from engine_core.model.kernels.packing import PackedLinear, interleave_gate_up, pack_linear
from engine_core.model.lora.adapter_weights import Adapter
from engine_core.model.lora.step_adapters import Int32Array, StepAdapters

_VALUES_PER_WORD = {Format.FLOAT32: 1, Format.BF16: 2}


class NativeLora:
    """Packed adapters, and the memory that a step needs for them."""

    def __init__(self, adapters: Sequence[Adapter], config: DecoderConfig, format: Format) -> None:
        """`format`: FLOAT32 or BF16."""
        self._config = config
        self._format = format
        self._packed: list[PackedLinear] = []
        self._max_rank = 0
        self._layers = (bindings.LoraLayer * (len(adapters) * config.num_layers))()
        for first, adapter in enumerate(adapters):
            for index in range(config.num_layers):
                self._layers[first * config.num_layers + index] = self._pack(adapter, index)
        self._scratch: list[torch.Tensor] = []
        self._arrays: list[Int32Array] = []

    def step(self, adapters: StepAdapters) -> bindings.LoraStep:
        """What the kernels need to know of a step; valid until the next one."""
        tiles = adapters.tiles(MAX_TILE_ROWS)
        self._arrays = [adapters.indices, tiles]
        self._reserve(len(adapters.indices))
        return bindings.LoraStep(
            self._layers,
            *(array.ctypes.data for array in self._arrays),
            *(tensor.data_ptr() for tensor in self._scratch),
            *(len(tiles), self._config.num_layers, self._rank_words, self._format),
        )

    @property
    def _rank_words(self) -> int:
        return stride_of(self._max_rank) // _VALUES_PER_WORD[self._format]

    def _reserve(self, num_tokens: int) -> None:
        if self._scratch and len(self._scratch[0]) >= num_tokens:
            return
        config = self._config
        largest = max(config.hidden_size, config.intermediate_size, config.num_heads * config.head_dim)
        widths = (largest, self._rank_words, 2 * config.intermediate_size)
        self._scratch = [torch.empty(num_tokens, width) for width in widths]

    def _pack(self, adapter: Adapter, index: int) -> bindings.LoraLayer:
        structs = {}
        for name, part in adapter.layers[index].items():
            is_interleaved = name == "gate_up" and self._config.has_gate
            expand = interleave_gate_up(part.expand) if is_interleaved else part.expand
            packed = [pack_linear(part.shrink, self._format), pack_linear(expand, self._format)]
            structs[name] = bindings.LowRank(*(linear.struct for linear in packed))
            self._packed += packed
            self._max_rank = max(self._max_rank, packed[0].num_columns)
        return bindings.LoraLayer(**structs)
