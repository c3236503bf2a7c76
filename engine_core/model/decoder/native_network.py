"""The decoder on the CPU kernels: a step is one call of compiled code.

Implements `Network` with the config and the weights of `network.py`, whose results it must give (tested). The KV cache
is the memory of `KVTensors` in a layout of its own (`kernels/src/attention.h`), written and read by the kernels only.
Invariant: a request's results are the same bits whatever is computed beside it and however its prompt was divided.
Next: `engine_core/model/kernels/`.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from engine_core.model.attention import AttentionMetadata
from engine_core.model.decoder.config import DecoderConfig
from engine_core.model.decoder.decoder_base import DecoderBase
from engine_core.model.decoder.rope import rotary_tables
from engine_core.model.decoder.weights import DecoderWeights, LayerWeights
from engine_core.model.kernels import bindings
from engine_core.model.kernels.bindings import (
    GROUP,
    MAX_HEAD_DIM,
    MAX_INPUTS,
    MAX_ROW,
    MAX_TILE_ROWS,
    PHASES,
    Format,
    stride_of,
)
from engine_core.model.kernels.packing import PackedLinear, interleave_gate_up, pack_linear
from engine_core.model.kv_tensors import KVTensors
from engine_core.model.lora.adapter_weights import Adapter
from engine_core.model.lora.native_lora import NativeLora
from engine_core.model.step_spans import StepSpans

_SPAN_TYPE = np.dtype(bindings.Span)
_NORMS = ("input_norm", "post_attention_norm", "mlp_norm", "post_mlp_norm", "query_norm", "key_norm")
"""Of a layer: named alike in `LayerWeights` and in the struct."""


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """One layer's weights as the kernels take them."""

    qkv: PackedLinear
    output: PackedLinear
    gate_up: PackedLinear
    down: PackedLinear
    norms: dict[str, torch.Tensor | None]
    """By name, all of `_NORMS`."""


def kernels_fit(config: DecoderConfig) -> bool:
    """Whether the kernels can compute models of these sizes."""
    return (
        config.head_dim % 16 == 0
        and config.head_dim <= MAX_HEAD_DIM
        and config.intermediate_size % 16 == 0
        and config.hidden_size % 4 == 0
        and config.hidden_size <= MAX_ROW
        and max(config.intermediate_size, config.num_heads * config.head_dim) <= MAX_INPUTS
    )


class NativeDecoderNetwork(DecoderBase):
    """Implements `Network`."""

    def __init__(
        self,
        config: DecoderConfig,
        weights: DecoderWeights,
        library: ctypes.CDLL,
        *,
        format: Format,
        head_format: Format,
        max_model_len: int,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        """Packs the weights; of `weights`, the embedding and the norms are kept."""
        super().__init__(config)
        self._library = library
        self._embedding = weights.embedding.contiguous()
        self._norm = weights.norm
        self._tables = [rotary_tables(rope, max_model_len) for rope in config.ropes]
        self._layers = [_pack_layer(layer, format, has_gate=config.has_gate) for layer in weights.layers]
        self._head = pack_linear(weights.head, head_format)
        self._head_struct = self._head.struct
        adapter_format = Format.BF16 if weights.embedding.dtype == torch.bfloat16 else Format.FLOAT32
        self._lora = NativeLora(adapters, config, adapter_format)
        self._scratch = _Scratch(config)
        self._logits = torch.empty(0)
        self._decode_tiles = np.zeros((0, 2), dtype=np.int32)
        self._kv_tensors: KVTensors | None = None
        self._decoder: bindings.Decoder | None = None

    def hidden_states(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        metadata: AttentionMetadata,
        kv_tensors: KVTensors,
    ) -> torch.Tensor:
        """`[num_tokens, hidden_size]` fp32 after the last norm; overwritten by the next step."""
        decoder = self._bound_to(kv_tensors)
        num_tokens = len(input_ids)
        step_spans = StepSpans.of(metadata.spans)
        spans = _span_array(step_spans)
        tiles = self._tiles(step_spans)
        batch = bindings.Batch(
            *(input_ids.data_ptr(), positions.data_ptr(), spans.ctypes.data, tiles.ctypes.data),
            *(num_tokens, len(spans), len(tiles)),
        )
        if metadata.adapters is not None:
            batch.lora = ctypes.pointer(self._lora.step(metadata.adapters))
        scratch = self._scratch.reserve(num_tokens)
        self._library.decoder_step(
            ctypes.byref(decoder), ctypes.byref(batch), ctypes.byref(scratch), torch.get_num_threads()
        )
        return self._scratch.residual[:num_tokens, : self._config.hidden_size]

    def _tiles(self, spans: StepSpans) -> npt.NDArray[np.int32]:
        """See `_tiles`; those of decodes are always the same."""
        num_spans, group = len(spans), self._config.num_heads // self._config.num_kv_heads
        if not spans.are_single or group > MAX_TILE_ROWS:
            return _tiles(spans.num_queries, group)
        if len(self._decode_tiles) < num_spans:
            self._decode_tiles = _tiles(np.ones(2 * num_spans, dtype=np.int32), group)
        return self._decode_tiles[:num_spans]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[rows, vocab_size]` fp32 for `[rows, hidden_size]`; overwritten by the next call."""
        num_rows, stride = len(hidden), stride_of(self._config.vocab_size)
        if len(self._logits) < num_rows:
            self._logits = torch.empty(num_rows, stride)
        self._scratch.reserve(num_rows)
        hidden = hidden if hidden.stride(-1) == 1 and hidden.dtype == torch.float32 else hidden.float().contiguous()
        self._library.linear_rows(
            *(ctypes.byref(self._head_struct), hidden.data_ptr(), hidden.stride(0), num_rows),
            *(self._scratch.operand.data_ptr(), self._scratch.operand_scales.data_ptr()),
            self._scratch.operand_sums.data_ptr(),
            *(self._logits.data_ptr(), torch.get_num_threads()),
        )
        return self._capped(self._logits[:num_rows, : self._config.vocab_size])

    def check(self, kv_tensors: KVTensors) -> None:
        """Nothing: `load.py` has compared this network with the reference before it gave it out."""

    def measure_phases(self) -> npt.NDArray[np.float64]:
        """`[len(PHASES)]` seconds, which steps add to from now on, to see where their time goes."""
        return self._scratch.measure_phases()

    def _bound_to(self, kv_tensors: KVTensors) -> bindings.Decoder:
        """The struct that the kernels read; it points into the weights and the cache."""
        if self._decoder is not None and self._kv_tensors is kv_tensors:
            return self._decoder
        config = self._config
        shape = (config.num_layers, config.num_kv_heads, config.head_dim)
        if (kv_tensors.num_layers, *kv_tensors.keys[0].shape[1:]) != shape:
            raise ValueError(f"the KV cache is not for {shape[0]} layers of {shape[1]} heads of {shape[2]}")
        layers = (bindings.Layer * config.num_layers)()
        for index, layer in enumerate(self._layers):
            layers[index] = self._layer_struct(index, layer, kv_tensors)
        self._decoder = bindings.Decoder(
            layers=layers,  # which the struct keeps alive
            embedding=self._embedding.data_ptr(),
            norm=self._norm.data_ptr(),
            num_layers=config.num_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            block_size=kv_tensors.block_size,
            is_bf16=kv_tensors.dtype == torch.bfloat16,
            has_gelu=config.hidden_act == "gelu_tanh",
            has_gate=config.has_gate,
            rms_norm_eps=config.rms_norm_eps,
            embedding_scale=float(torch.tensor(config.embedding_scale, dtype=self._embedding.dtype)),
            attention_scale=config.attention_scale,
            attention_softcap=config.attention_softcap or 0.0,
        )
        self._kv_tensors = kv_tensors
        return self._decoder

    def _layer_struct(self, index: int, layer: _Layer, kv_tensors: KVTensors) -> bindings.Layer:
        cos, sin = self._tables[self._config.rope_of_layer[index]]
        return bindings.Layer(
            qkv=layer.qkv.struct,
            output=layer.output.struct,
            gate_up=layer.gate_up.struct,
            down=layer.down.struct,
            **{name: None if norm is None else norm.data_ptr() for name, norm in layer.norms.items()},
            cos=cos.data_ptr(),
            sin=sin.data_ptr(),
            keys=kv_tensors.keys[index].data_ptr(),
            values=kv_tensors.values[index].data_ptr(),
            rotary_dim=2 * cos.shape[1],
            window=self._config.sliding_windows[index] or 0,
        )


class _Scratch:
    """What a step writes, for as many tokens as the largest step so far."""

    def __init__(self, config: DecoderConfig) -> None:
        self._config = config
        self.residual = self.operand = self.operand_scales = self.operand_sums = torch.empty(0)
        self._struct: bindings.Scratch | None = None
        self._phase_seconds: npt.NDArray[np.float64] | None = None
        self._tensors: list[torch.Tensor] = []

    def measure_phases(self) -> npt.NDArray[np.float64]:
        """From now on, steps add their times to what is returned."""
        self._phase_seconds, self._struct = np.zeros(len(PHASES)), None
        return self._phase_seconds

    def reserve(self, num_tokens: int) -> bindings.Scratch:
        """Memory for a step of `num_tokens`."""
        if self._struct is None or len(self.residual) < num_tokens:
            config = self._config
            num_queries = config.num_heads * config.head_dim
            hidden, intermediate = stride_of(config.hidden_size), stride_of(config.intermediate_size)
            num_qkv = stride_of(num_queries + 2 * config.num_kv_heads * config.head_dim)
            widths = [hidden, max(num_qkv, hidden), num_queries, intermediate, num_queries]
            largest = max(hidden, num_queries, intermediate)
            widths += [largest, -(-largest // GROUP), -(-largest // GROUP)]
            self._tensors = [torch.empty(num_tokens, width) for width in widths]
            self.residual = self._tensors[0]
            self.operand, self.operand_scales, self.operand_sums = self._tensors[5:]
            pointers = [tensor.data_ptr() for tensor in self._tensors]
            measured = None if self._phase_seconds is None else self._phase_seconds.ctypes.data
            self._struct = bindings.Scratch(*pointers, measured)
        return self._struct


def _pack_layer(weights: LayerWeights, format: Format, *, has_gate: bool) -> _Layer:
    return _Layer(
        qkv=pack_linear(weights.qkv, format, weights.qkv_bias),
        output=pack_linear(weights.output, format, weights.output_bias),
        gate_up=pack_linear(interleave_gate_up(weights.gate_up) if has_gate else weights.gate_up, format),
        down=pack_linear(weights.down, format),
        norms={name: getattr(weights, name) for name in _NORMS},
    )


def _span_array(spans: StepSpans) -> np.ndarray:
    """The spans as the kernels take them; points into the block table."""
    table = spans.block_table
    array = np.empty(len(spans), dtype=_SPAN_TYPE)
    array["block_ids"] = table.ctypes.data + spans.rows * table.strides[0]
    array["query_start"] = spans.query_starts
    array["num_queries"] = spans.num_queries
    array["num_computed"] = spans.num_computed_tokens
    return array


def _tiles(num_queries: npt.NDArray[np.int32], group: int) -> npt.NDArray[np.int32]:
    """`[num_tiles, 2]`: each span and the first of up to `MAX_TILE_ROWS` rows of it; long prompts first."""
    counts = -(-(num_queries * group) // MAX_TILE_ROWS)
    index = np.repeat(np.arange(len(num_queries), dtype=np.int32), counts)
    first = np.arange(len(index), dtype=np.int32) - np.repeat(np.cumsum(counts) - counts, counts)
    tiles = np.stack([index, first * MAX_TILE_ROWS], axis=1).astype(np.int32)
    return np.ascontiguousarray(tiles[np.argsort(counts[index] == 1, kind="stable")])
