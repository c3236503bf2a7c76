"""The weights of a decoder: read straight from safetensors files, fused, and named alike for all families.

Invariant: every tensor has the shape that its docstring names; norm weights are fp32 and are what is multiplied with.
Next: `network.py`, `native_network.py`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from engine_core.model.decoder.checkpoint import EMBEDDING, HEAD, Checkpoint, open_checkpoint
from engine_core.model.decoder.config import DecoderConfig
from ipc.errors import ConfigError


@dataclass(frozen=True, slots=True, eq=False)
class LayerWeights:
    """One layer. H, KV: number of (key-value) heads, D: size of a head."""

    input_norm: torch.Tensor
    """`[hidden]` fp32, as all norms."""
    qkv: torch.Tensor
    """`[(H + 2 · KV) · D, hidden]`."""
    qkv_bias: torch.Tensor | None
    query_norm: torch.Tensor | None
    """`[D]`: of each head, before it is rotated."""
    key_norm: torch.Tensor | None
    output: torch.Tensor
    """`[hidden, H · D]`."""
    output_bias: torch.Tensor | None
    post_attention_norm: torch.Tensor | None
    """Of what attention gives, before it is added."""
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    """`[2 · intermediate, hidden]`; `[intermediate, hidden]` of an MLP without a gate."""
    down: torch.Tensor
    """`[hidden, intermediate]`."""
    post_mlp_norm: torch.Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class DecoderWeights:
    """A whole model."""

    embedding: torch.Tensor
    """`[vocab, hidden]`."""
    layers: Iterable[LayerWeights]
    norm: torch.Tensor
    head: torch.Tensor
    """`[vocab, hidden]`; the embedding where they are tied."""

    def float32_sample(self, num_tokens: int) -> "DecoderWeights":
        """The same model in fp32, with the first `num_tokens` of its vocabulary; a layer exists while it is used."""
        return DecoderWeights(
            self.embedding[:num_tokens].float(), _Float32Layers(self.layers), self.norm, self.head[:num_tokens].float()
        )


class _Float32Layers:
    """Layers that are converted when they are iterated."""

    def __init__(self, layers: Iterable[LayerWeights]) -> None:
        self._layers = layers

    def __iter__(self) -> Iterator[LayerWeights]:
        for layer in self._layers:
            yield LayerWeights(**{field.name: _in_float32(getattr(layer, field.name)) for field in fields(layer)})


def _in_float32(tensor: Any) -> Any:
    return None if tensor is None else tensor.float()


def load_decoder_weights(
    model_dir: Path, config: DecoderConfig, dtype: torch.dtype, device: torch.device
) -> DecoderWeights:
    """Read the weights.

    Raises:
        ConfigError: a file is damaged, or the tensors are not those that the config asks for.
    """
    try:
        return _Reader(config, open_checkpoint(model_dir, config, device), dtype).read()
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"cannot load {model_dir}: {type(error).__name__}: {error}") from error


class _Reader:
    """Reads one model, whose tensors are known to be there with the right shapes."""

    def __init__(self, config: DecoderConfig, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        self._config, self._checkpoint, self._dtype = config, checkpoint, dtype

    def read(self) -> DecoderWeights:
        embedding, head = self._embedding_and_head()
        return DecoderWeights(
            embedding=embedding,
            layers=[self._layer(f"model.layers.{index}.") for index in range(self._config.num_layers)],
            norm=self._norm("model.norm"),
            head=head,
        )

    def _embedding_and_head(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One tensor for both if they are tied and the files do not have two that differ, as in transformers."""
        embedding, *head = [self._take(name) for name in (EMBEDDING, HEAD) if name in self._checkpoint.names]
        if not head or (self._config.tie_word_embeddings and torch.equal(embedding, head[0])):
            return embedding, embedding
        return embedding, head[0]

    def _layer(self, prefix: str) -> LayerWeights:
        config, attention, mlp = self._config, prefix + "self_attn.", prefix + "mlp."
        is_gemma, is_fused = config.has_gemma_norms, config.has_fused_weights
        qkv = ["qkv_proj"] if is_fused else ["q_proj", "k_proj", "v_proj"]
        gate_up = ["gate_up_proj"] if is_fused else ["gate_proj", "up_proj"] if config.has_gate else ["up_proj"]
        mlp_norm = "pre_feedforward_layernorm" if is_gemma else "post_attention_layernorm"
        return LayerWeights(
            input_norm=self._norm(prefix + "input_layernorm"),
            qkv=self._stack([f"{attention}{name}.weight" for name in qkv]),
            qkv_bias=self._stack([f"{attention}{name}.bias" for name in qkv]) if config.has_qkv_bias else None,
            query_norm=self._norm(attention + "q_norm") if config.has_qk_norm else None,
            key_norm=self._norm(attention + "k_norm") if config.has_qk_norm else None,
            output=self._take(attention + "o_proj.weight"),
            output_bias=self._take(attention + "o_proj.bias") if config.has_output_bias else None,
            post_attention_norm=self._norm(prefix + "post_attention_layernorm") if is_gemma else None,
            mlp_norm=self._norm(prefix + mlp_norm),
            gate_up=self._stack([f"{mlp}{name}.weight" for name in gate_up]),
            down=self._take(mlp + "down_proj.weight"),
            post_mlp_norm=self._norm(prefix + "post_feedforward_layernorm") if is_gemma else None,
        )

    def _take(self, name: str) -> torch.Tensor:
        return self._checkpoint.take(name, self._dtype)

    def _stack(self, names: list[str]) -> torch.Tensor:
        return self._take(names[0]) if len(names) == 1 else torch.cat([self._take(name) for name in names])

    def _norm(self, name: str) -> torch.Tensor:
        weight = self._checkpoint.take(name + ".weight", torch.float32)
        return weight + 1 if self._config.has_gemma_norms else weight
