"""The decoder's forward pass in plain torch: one pass over a flat batch, QKV and gate/up each as one matrix.

Runs on any device and is what the CPU kernels are tested against. Used instead of transformers where
`DecoderConfig.try_from` says that it computes the same (tested: equal logits), because it starts seconds sooner and
has a third of the operations. Next: `attention.py`, `native_network.py`.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import gelu, linear, silu

from engine_core.model.attention import AttentionMetadata
from engine_core.model.decoder.config import DecoderConfig
from engine_core.model.decoder.decoder_base import DecoderBase
from engine_core.model.decoder.rope import rotary_tables
from engine_core.model.decoder.weights import DecoderWeights, LayerWeights
from engine_core.model.kv_tensors import KVTensors
from engine_core.model.lora.adapter_weights import Adapter
from engine_core.model.lora.targets import LinearName
from engine_core.model.lora.torch_lora import add_low_rank
from engine_core.model.network import check_decode

_Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines `[num_tokens, 1, rotary_dim / 2]`."""


class DecoderNetwork(DecoderBase):
    """Implements `Network`."""

    def __init__(
        self, config: DecoderConfig, weights: DecoderWeights, max_model_len: int, adapters: Sequence[Adapter] = ()
    ) -> None:
        """Raises `ConfigError` where positions cannot be told for `max_model_len` tokens."""
        super().__init__(config)
        self._adapters = adapters
        self._weights = weights
        dtype, device = weights.embedding.dtype, weights.embedding.device
        tables = [rotary_tables(rope, max_model_len) for rope in config.ropes]
        self._tables = [tuple(table.to(device=device, dtype=dtype) for table in pair) for pair in tables]
        self._embedding_scale = torch.tensor(config.embedding_scale, dtype=dtype, device=device)

    def hidden_states(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        metadata: AttentionMetadata,
        kv_tensors: KVTensors,
    ) -> torch.Tensor:
        """`[num_tokens, hidden_size]` after the last norm."""
        hidden = self._weights.embedding[input_ids] * self._embedding_scale
        rotations = [(cos[positions][:, None], sin[positions][:, None]) for cos, sin in self._tables]
        for index, layer in enumerate(self._weights.layers):
            rotation = rotations[self._config.rope_of_layer[index]]
            attended = self._attend(
                index, layer, self._normalize(hidden, layer.input_norm), rotation, metadata, kv_tensors
            )
            hidden = hidden + self._normalize(attended, layer.post_attention_norm)
            fed = self._feed_forward(index, layer, self._normalize(hidden, layer.mlp_norm), metadata)
            hidden = hidden + self._normalize(fed, layer.post_mlp_norm)
        return self._normalize(hidden, self._weights.norm)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[rows, vocab_size]` for `[rows, hidden_size]`."""
        return self._capped(linear(hidden, self._weights.head))

    def check(self, kv_tensors: KVTensors) -> None:
        """Warm up; raises `UnsupportedAttentionError` if decode and prefill differ."""
        check_decode(self, kv_tensors)

    def _attend(
        self,
        index: int,
        layer: LayerWeights,
        hidden: torch.Tensor,
        rotation: _Rotation,
        metadata: AttentionMetadata,
        kv_tensors: KVTensors,
    ) -> torch.Tensor:
        config = self._config
        num_heads, num_rotated = config.num_heads, config.num_heads + config.num_kv_heads
        qkv = self._linear(index, "qkv", hidden, layer.qkv, layer.qkv_bias, metadata)
        qkv = qkv.view(hidden.shape[0], -1, config.head_dim)
        query = self._normalize(qkv[:, :num_heads], layer.query_norm)
        key = self._normalize(qkv[:, num_heads:num_rotated], layer.key_norm)
        attended = metadata.attention.attend(
            _rotate(query, *rotation),
            _rotate(key, *rotation),
            qkv[:, num_rotated:],
            kv_tensors.keys[index],
            kv_tensors.values[index],
            scale=config.attention_scale,
            window=config.sliding_windows[index],
            softcap=config.attention_softcap,
        )
        attended = attended.reshape(hidden.shape[0], -1)
        return self._linear(index, "output", attended, layer.output, layer.output_bias, metadata)

    def _feed_forward(
        self, index: int, layer: LayerWeights, hidden: torch.Tensor, metadata: AttentionMetadata
    ) -> torch.Tensor:
        gated = self._linear(index, "gate_up", hidden, layer.gate_up, None, metadata)
        gate, *up = gated.chunk(2 if self._config.has_gate else 1, dim=-1)
        activated = silu(gate) if self._config.hidden_act == "silu" else gelu(gate, approximate="tanh")
        activated = activated * up[0] if up else activated
        return self._linear(index, "down", activated, layer.down, None, metadata)

    def _linear(
        self,
        index: int,
        name: LinearName,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        metadata: AttentionMetadata,
    ) -> torch.Tensor:
        """A matrix of layer `index`, with what adapters add to it."""
        outputs = linear(states, weight, bias)
        if metadata.adapters is not None:
            add_low_rank(outputs, states, self._adapters, metadata.adapters, index, name)
        return outputs

    def _normalize(self, states: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        """RMSNorm in fp32 over the last dimension; Llama rounds before it multiplies with the weight, Gemma after."""
        if weight is None:
            return states
        wide = states.float()
        wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self._config.rms_norm_eps)
        if self._config.has_gemma_norms:
            return (wide * weight).to(states.dtype)
        return weight.to(states.dtype) * wide.to(states.dtype)


def _rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of `[num_tokens, heads, head_dim]` in the half-split layout of transformers."""
    half = cos.shape[-1]
    first, second, rest = states[..., :half], states[..., half : 2 * half], states[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)
