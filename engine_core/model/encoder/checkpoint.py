"""The weights of an encoder: read from safetensors files, with queries, keys and values in one matrix.

Names and shapes are compared before any tensor is read, so that one message tells all that is wrong. Heads (poolers,
classifiers of masked words) are not read. Next: `network.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine_core.model.encoder.config import EncoderConfig
from engine_core.weight_files import (
    Shapes,
    StoredTensor,
    listed,
    refuse_missing,
    refuse_other_kinds,
    stored_tensors,
)
from ipc.errors import ConfigError

_EMBEDDINGS = "embeddings."
_RELATIVE_BIAS = "encoder.relative_attention_bias.weight"
_NUM_BUCKETS = 32
_HEADS = ("pooler.", "cls.", "lm_head.", "vocab_")
_BUFFERS = frozenset({"embeddings.position_ids", "embeddings.token_type_ids"})
"""Of older files; they follow from the config."""


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """Weight `[out, in]` and bias `[out]` of a linear layer; of a norm, both `[hidden]`."""

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class EncoderLayer:
    """One layer."""

    qkv: Affine
    """`[3 · hidden, hidden]`: all queries, then all keys, then all values."""
    attention_output: Affine
    attention_norm: Affine
    up: Affine
    """`[intermediate, hidden]`."""
    down: Affine
    output_norm: Affine


@dataclass(frozen=True, slots=True, eq=False)
class EncoderWeights:
    """A whole model."""

    words: torch.Tensor
    """`[vocab, hidden]`."""
    positions: torch.Tensor
    """`[num_positions, hidden]`, with the embedding of token type 0 added where there are types."""
    embedding_norm: Affine
    layers: tuple[EncoderLayer, ...]
    relative_bias: torch.Tensor | None
    """`[32, num_heads]`: of each bucket of distances."""


def load_weights(model_dir: Path, config: EncoderConfig, dtype: torch.dtype, device: torch.device) -> EncoderWeights:
    """Read the weights of a model folder.

    Raises:
        ConfigError: a file is damaged, tensors are missing, have another shape or are no floating point numbers, or
            there are some for which the config has no use.
    """
    stored = stored_tensors(model_dir)
    names = _stored_names(stored, config.family.prefix)
    _check(model_dir, {name: stored[file_name] for name, file_name in names.items()}, _needed(config))
    reader = _Reader(stored, names, dtype, device)
    positions = reader.take("embeddings.position_embeddings.weight")
    if config.num_token_types:
        positions = positions + reader.take("embeddings.token_type_embeddings.weight")[0]
    return EncoderWeights(
        words=reader.take("embeddings.word_embeddings.weight"),
        positions=positions,
        embedding_norm=reader.affine("embeddings.LayerNorm"),
        layers=tuple(_layer(reader, config, index) for index in range(config.num_layers)),
        relative_bias=reader.take(_RELATIVE_BIAS) if config.family.has_relative_bias else None,
    )


class _Reader:
    """Takes tensors by their names without prefix."""

    def __init__(
        self, stored: Mapping[str, StoredTensor], names: Mapping[str, str], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._stored = stored
        self._names = names
        self._dtype = dtype
        self._device = device
        try:
            self._files: dict[Path, Any] = {
                path: safe_open(path, framework="pt") for path in {tensor.path for tensor in stored.values()}
            }
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"cannot load the weights: {' '.join(str(error).split())}") from error

    def take(self, name: str) -> torch.Tensor:
        """Read one tensor."""
        file_name = self._names[name]
        tensor: torch.Tensor = self._files[self._stored[file_name].path].get_tensor(file_name)
        return tensor.to(device=self._device, dtype=self._dtype)

    def affine(self, *names: str) -> Affine:
        """Weights and biases of these layers, one below the other."""
        weight, bias = (torch.cat([self.take(f"{name}.{kind}") for name in names]) for kind in ("weight", "bias"))
        return Affine(weight, bias)


def _layer(reader: _Reader, config: EncoderConfig, index: int) -> EncoderLayer:
    names = config.family.layers
    prefix = f"{names.layer}.{index}."
    return EncoderLayer(
        qkv=reader.affine(prefix + names.query, prefix + names.key, prefix + names.value),
        attention_output=reader.affine(prefix + names.attention_output),
        attention_norm=reader.affine(prefix + names.attention_norm),
        up=reader.affine(prefix + names.up),
        down=reader.affine(prefix + names.down),
        output_norm=reader.affine(prefix + names.output_norm),
    )


def _stored_names(stored: Mapping[str, StoredTensor], prefix: str) -> dict[str, str]:
    """Name in the file of each tensor of the encoder, by the name without prefix."""
    has_prefix = any(name.startswith(prefix + _EMBEDDINGS) for name in stored)
    names = {name.removeprefix(prefix) if has_prefix else name: name for name in stored}
    return {
        name: file_name for name, file_name in names.items() if not name.startswith(_HEADS) and name not in _BUFFERS
    }


def _check(model_dir: Path, stored: Mapping[str, StoredTensor], needed: Shapes) -> None:
    refuse_missing(model_dir, stored, needed)
    if surplus := sorted(stored.keys() - needed.keys()):
        raise ConfigError(f"cannot load {model_dir}: its config has no use for {listed(surplus)}")
    refuse_other_kinds(model_dir, stored, needed)


def _needed(config: EncoderConfig) -> Shapes:
    hidden, intermediate, names = config.hidden_size, config.intermediate_size, config.family.layers
    needed: Shapes = {
        "embeddings.word_embeddings.weight": (config.vocab_size, hidden),
        "embeddings.position_embeddings.weight": (config.num_positions, hidden),
        **_affine_shapes("embeddings.LayerNorm", hidden),
    }
    if config.num_token_types:
        needed["embeddings.token_type_embeddings.weight"] = (config.num_token_types, hidden)
    if config.family.has_relative_bias:
        needed[_RELATIVE_BIAS] = (_NUM_BUCKETS, config.num_heads)
    for index in range(config.num_layers):
        prefix = f"{names.layer}.{index}."
        for name in (names.query, names.key, names.value, names.attention_output):
            needed |= _affine_shapes(prefix + name, hidden, hidden)
        needed |= _affine_shapes(prefix + names.attention_norm, hidden)
        needed |= _affine_shapes(prefix + names.up, intermediate, hidden)
        needed |= _affine_shapes(prefix + names.down, hidden, intermediate)
        needed |= _affine_shapes(prefix + names.output_norm, hidden)
    return needed


def _affine_shapes(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
