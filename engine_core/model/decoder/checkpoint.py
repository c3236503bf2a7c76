"""The tensors that a decoder needs, by the names of transformers, and the files that have them.

`open_checkpoint` compares names and shapes before any tensor is read, so that one message tells all that is wrong.
Next: `weights.py` reads and fuses them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine_core.model.decoder.config import DecoderConfig
from engine_core.weight_files import (
    Shapes,
    StoredTensor,
    listed,
    refuse_missing,
    refuse_other_kinds,
    stored_tensors,
)
from ipc.errors import ConfigError

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_IGNORED_SUFFIX = "rotary_emb.inv_freq"
"""Of tensors that older files have, and that follow from the config."""


class Checkpoint:
    """The tensors of a model folder, by name; `names` are those that it has."""

    def __init__(self, stored: Mapping[str, StoredTensor], device: torch.device) -> None:
        """Open the files; raises `ConfigError` if one is damaged."""
        self.names = frozenset(stored)
        self._stored = stored
        self._device = device
        self._files: dict[Path, Any] = {}
        for path in {tensor.path for tensor in stored.values()}:
            try:
                self._files[path] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise ConfigError(f"cannot load {path}: {' '.join(str(error).split())}") from error

    def take(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Read one tensor."""
        tensor: torch.Tensor = self._files[self._stored[name].path].get_tensor(name)
        return tensor.to(device=self._device, dtype=dtype)


def open_checkpoint(model_dir: Path, config: DecoderConfig, device: torch.device) -> Checkpoint:
    """The files of a model folder, all of whose tensors have been found to be what the network needs.

    Raises:
        ConfigError: tensors are missing, have another shape or are no floating point numbers, or there are more.
    """
    stored, needed = stored_tensors(model_dir), _needed(config)
    if config.tie_word_embeddings:
        for name, other in ((HEAD, EMBEDDING), (EMBEDDING, HEAD)):
            if name not in stored and other in stored:
                del needed[name]
    refuse_missing(model_dir, stored, needed)
    surplus = sorted(name for name in stored.keys() - needed.keys() if not name.endswith(_IGNORED_SUFFIX))
    if surplus:
        raise ConfigError(
            f"cannot load {model_dir}: its config has no use for {listed(surplus)} (--model-impl transformers ignores "
            f"such tensors)"
        )
    refuse_other_kinds(model_dir, stored, needed)
    return Checkpoint(stored, device)


def _needed(config: DecoderConfig) -> Shapes:
    layer = _layer_shapes(config)
    return {
        EMBEDDING: (config.vocab_size, config.hidden_size),
        **{f"model.layers.{index}.{name}": layer[name] for index in range(config.num_layers) for name in layer},
        "model.norm.weight": (config.hidden_size,),
        HEAD: (config.vocab_size, config.hidden_size),
    }


def _layer_shapes(config: DecoderConfig) -> Shapes:
    """Names behind `model.layers.N.`."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    num_queries, num_keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    shapes: Shapes = {
        "input_layernorm.weight": (hidden,),
        "self_attn.o_proj.weight": (hidden, num_queries),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.down_proj.weight": (hidden, intermediate),
    }
    if config.has_fused_weights:
        shapes["self_attn.qkv_proj.weight"] = (num_queries + 2 * num_keys, hidden)
        shapes["mlp.gate_up_proj.weight"] = (2 * intermediate, hidden)
    else:
        rows = {"q_proj": num_queries, "k_proj": num_keys, "v_proj": num_keys}
        shapes |= {f"self_attn.{name}.weight": (count, hidden) for name, count in rows.items()}
        projections = ("gate", "up") if config.has_gate else ("up",)
        shapes |= {f"mlp.{name}_proj.weight": (intermediate, hidden) for name in projections}
        if config.has_qkv_bias:
            shapes |= {f"self_attn.{name}.bias": (count,) for name, count in rows.items()}
    if config.has_output_bias:
        shapes["self_attn.o_proj.bias"] = (hidden,)
    if config.has_qk_norm:
        shapes |= {f"self_attn.{name}_norm.weight": (config.head_dim,) for name in ("q", "k")}
    if config.has_gemma_norms:
        shapes |= {f"{name}_feedforward_layernorm.weight": (hidden,) for name in ("pre", "post")}
    return shapes
