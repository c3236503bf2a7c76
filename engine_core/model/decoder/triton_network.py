"""The decoder on a GPU: cuBLAS for the matrix products, one Triton kernel for everything between two of them.

Implements `Network` with the config and the weights of `network.py`, whose results it must give (tested). It reads
nothing back from the device and allocates only outputs, so a step can be captured as a CUDA graph.
Invariant: the residual stream is fp32, so bf16 rounds only what goes into and comes out of a matrix product.
Next: `engine_core/model/cuda/`.
"""

import torch
from torch.nn.functional import gelu, linear, silu

from engine_core.model.attention import AttentionMetadata
from engine_core.model.cuda.attention import TritonAttention
from engine_core.model.cuda.row_kernels import activate, add_and_normalize, rotate_and_store
from engine_core.model.decoder.config import DecoderConfig
from engine_core.model.decoder.decoder_base import DecoderBase
from engine_core.model.decoder.rope import rotary_tables
from engine_core.model.decoder.weights import DecoderWeights, LayerWeights
from engine_core.model.kv_tensors import KVTensors
from engine_core.model.network import check_decode


class TritonDecoderNetwork(DecoderBase):
    """Implements `Network`."""

    def __init__(self, config: DecoderConfig, weights: DecoderWeights, max_model_len: int) -> None:
        """Raises `ConfigError` where positions cannot be told for `max_model_len` tokens."""
        super().__init__(config)
        self._weights = weights
        self._layers = list(weights.layers)
        self._dtype, device = weights.embedding.dtype, weights.embedding.device
        tables = [rotary_tables(rope, max_model_len) for rope in config.ropes]
        self._tables = [(cos.to(device), sin.to(device)) for cos, sin in tables]
        self._embedding_scale = float(torch.tensor(config.embedding_scale, dtype=self._dtype))

    def hidden_states(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        metadata: AttentionMetadata,
        kv_tensors: KVTensors,
    ) -> torch.Tensor:
        """`[num_tokens, hidden_size]` after the last norm."""
        attention = metadata.attention
        assert isinstance(attention, TritonAttention), "the cache is not on the device of the network"
        residual = self._weights.embedding[input_ids].float()
        if self._embedding_scale != 1.0:
            residual *= self._embedding_scale
        normalized = self._add_and_normalize(residual, None, None, self._layers[0].input_norm)
        following = [layer.input_norm for layer in self._layers[1:]]
        for index, (layer, next_norm) in enumerate(zip(self._layers, [*following, self._weights.norm], strict=True)):
            attended = self._attend(index, layer, normalized, positions, attention, kv_tensors)
            normalized = self._add_and_normalize(residual, attended, layer.post_attention_norm, layer.mlp_norm)
            fed = linear(self._activate(linear(normalized, layer.gate_up)), layer.down)
            normalized = self._add_and_normalize(residual, fed, layer.post_mlp_norm, next_norm)
        return normalized

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[rows, vocab_size]` fp32 for `[rows, hidden_size]`; bf16 would often round the best ones alike."""
        head = self._weights.head
        if hidden.dtype == torch.float32:
            return self._capped(linear(hidden, head))
        return self._capped(torch.mm(hidden, head.t(), out_dtype=torch.float32))

    def check(self, kv_tensors: KVTensors) -> None:
        """Warm up; raises `UnsupportedAttentionError` if decode and prefill differ."""
        check_decode(self, kv_tensors)

    def _attend(
        self,
        index: int,
        layer: LayerWeights,
        normalized: torch.Tensor,
        positions: torch.Tensor,
        attention: TritonAttention,
        kv_tensors: KVTensors,
    ) -> torch.Tensor:
        config, keys, values = self._config, kv_tensors.keys[index], kv_tensors.values[index]
        head_norms = None
        if layer.query_norm is not None and layer.key_norm is not None:
            head_norms = layer.query_norm, layer.key_norm
        query = rotate_and_store(
            linear(normalized, layer.qkv, layer.qkv_bias).view(normalized.shape[0], -1, config.head_dim),
            *(keys, values, positions, attention.arrays.slots),
            *(self._tables[config.rope_of_layer[index]], head_norms, config.rms_norm_eps),
        )
        attended = attention.read(
            *(query, keys, values),
            scale=config.attention_scale,
            window=config.sliding_windows[index],
            softcap=config.attention_softcap,
        )
        return linear(attended.flatten(1), layer.output, layer.output_bias)

    def _activate(self, gate_up: torch.Tensor) -> torch.Tensor:
        has_gelu = self._config.hidden_act == "gelu_tanh"
        if self._config.has_gate:
            return activate(gate_up, has_gelu=has_gelu)
        return gelu(gate_up, approximate="tanh") if has_gelu else silu(gate_up)

    def _add_and_normalize(
        self,
        residual: torch.Tensor,
        addend: torch.Tensor | None,
        addend_norm: torch.Tensor | None,
        norm: torch.Tensor,
    ) -> torch.Tensor:
        return add_and_normalize(residual, addend, addend_norm, norm, self._config.rms_norm_eps, self._dtype)
