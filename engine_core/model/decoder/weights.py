"""The weights of a decoder: read straight from safetensors files, fused, and named alike for all families.

Invariant: every tensor has the shape that its docstring names; norm weights are fp32 and are what is multiplied with.
Next: `network.py`, `native_network.py`.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

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
    """`[2 · intermediate, hidden]`."""
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
        ConfigError: a file is damaged, or a weight is missing or has another shape.
    """
    try:
        return _Reader(config, _TensorFiles(model_dir, dtype, device)).read()
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"cannot load {model_dir}: {type(error).__name__}: {error}") from error


class _TensorFiles:
    """The tensors of a folder of safetensors files, by name."""

    def __init__(self, model_dir: Path, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        index_file = model_dir / "model.safetensors.index.json"
        if index_file.is_file():
            names = sorted(set(json.loads(index_file.read_text())["weight_map"].values()))
        else:
            names = ["model.safetensors"]
        self._file_of: dict[str, Any] = {}
        for file_name in names:
            file: Any = safe_open(model_dir / file_name, framework="pt")
            self._file_of.update(dict.fromkeys(file.keys(), file))

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> torch.Tensor:
        """One tensor; raises `ValueError` if it is missing or has another shape."""
        if name not in self._file_of:
            raise ValueError(f"{name} is missing")
        tensor: torch.Tensor = self._file_of[name].get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} has the shape {tuple(tensor.shape)} instead of {shape}")
        return tensor.to(device=self._device, dtype=dtype or self._dtype)


class _Reader:
    """Reads one model."""

    def __init__(self, config: DecoderConfig, files: _TensorFiles) -> None:
        self._config = config
        self._take = files.take
        self._is_fused = config.architecture == "Phi3ForCausalLM"

    def read(self) -> DecoderWeights:
        config = self._config
        shape = (config.vocab_size, config.hidden_size)
        embedding = self._take("model.embed_tokens.weight", shape)
        return DecoderWeights(
            embedding=embedding,
            layers=[self._layer(f"model.layers.{index}.") for index in range(config.num_layers)],
            norm=self._norm("model.norm"),
            head=embedding if config.tie_word_embeddings else self._take("lm_head.weight", shape),
        )

    def _layer(self, prefix: str) -> LayerWeights:
        config, attention = self._config, prefix + "self_attn."
        hidden, head_dim = config.hidden_size, config.head_dim
        post_norm = "post_feedforward_layernorm" if config.has_gemma_norms else None
        mlp_norm = "pre_feedforward_layernorm" if config.has_gemma_norms else "post_attention_layernorm"
        return LayerWeights(
            input_norm=self._norm(prefix + "input_layernorm"),
            qkv=self._qkv(lambda name, rows: self._take(f"{attention}{name}.weight", (rows, hidden))),
            qkv_bias=self._qkv(lambda name, rows: self._take(f"{attention}{name}.bias", (rows,)))
            if config.has_qkv_bias
            else None,
            query_norm=self._norm(attention + "q_norm", head_dim) if config.has_qk_norm else None,
            key_norm=self._norm(attention + "k_norm", head_dim) if config.has_qk_norm else None,
            output=self._take(attention + "o_proj.weight", (hidden, config.num_heads * head_dim)),
            output_bias=self._take(attention + "o_proj.bias", (hidden,)) if config.has_output_bias else None,
            post_attention_norm=self._norm(prefix + "post_attention_layernorm") if config.has_gemma_norms else None,
            mlp_norm=self._norm(prefix + mlp_norm),
            gate_up=self._gate_up(prefix + "mlp."),
            down=self._take(prefix + "mlp.down_proj.weight", (hidden, config.intermediate_size)),
            post_mlp_norm=self._norm(prefix + post_norm) if post_norm else None,
        )

    def _qkv(self, take: Callable[[str, int], torch.Tensor]) -> torch.Tensor:
        config = self._config
        num_query_rows, num_kv_rows = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        if self._is_fused:
            return take("qkv_proj", num_query_rows + 2 * num_kv_rows)
        return torch.cat([take("q_proj", num_query_rows), take("k_proj", num_kv_rows), take("v_proj", num_kv_rows)])

    def _gate_up(self, prefix: str) -> torch.Tensor:
        size, hidden = self._config.intermediate_size, self._config.hidden_size
        if self._is_fused:
            return self._take(prefix + "gate_up_proj.weight", (2 * size, hidden))
        return torch.cat([self._take(f"{prefix}{name}_proj.weight", (size, hidden)) for name in ("gate", "up")])

    def _norm(self, name: str, size: int | None = None) -> torch.Tensor:
        weight = self._take(name + ".weight", (size or self._config.hidden_size,), torch.float32)
        return weight + 1 if self._config.has_gemma_norms else weight
