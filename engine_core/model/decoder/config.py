"""Which models the decoder computes, and their sizes and constants.

`DecoderConfig.try_from` reads a `config.json`. Invariant: what it accepts is computed as transformers does (tested with
equal logits for each family, and for many changes of its config); anything unusual in a config means None, never a
guess. Next: `families.py`, `windows.py`, `rope_config.py`, then `weights.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine_core.config_values import ConfigValues
from engine_core.model.decoder.families import FAMILIES, Family
from engine_core.model.decoder.rope_config import RopeConfig
from ipc.errors import ConfigError

HiddenAct = Literal["silu", "gelu_tanh"]

_HIDDEN_ACTS: Mapping[str, HiddenAct] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_ORDINARY: Mapping[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "per_layer_config": (None,),
    "text_config": (None,),
    "mlp_bias": (False,),
    "pretraining_tp": (1, None),
    "use_bidirectional_attention": (False, None),
    "is_encoder_decoder": (False,),
}
"""Values that these keys must have: all others would compute something else."""
_MAX_LAYERS = 10_000
"""More than any model has: what is made for each layer stays small."""
_LENGTHS = ("max_position_embeddings", "original_max_position_embeddings")
_SOFTCAPS = ("attn_logit_softcapping", "final_logit_softcapping")


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Sizes and constants."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    hidden_act: HiddenAct
    embedding_scale: float
    attention_scale: float
    attention_softcap: float | None
    logits_softcap: float | None
    tie_word_embeddings: bool
    """The output layer is the embedding, unless the files have both and they differ."""
    has_qkv_bias: bool
    has_output_bias: bool
    has_qk_norm: bool
    has_gemma_norms: bool
    """Norm weights are stored as weight - 1, and norms follow attention and MLP too."""
    has_fused_weights: bool
    """The files have QKV and gate/up each as one matrix."""
    has_gate: bool
    """Of the MLP: down(act(gate(x)) · up(x)); without one, down(act(up(x)))."""
    sliding_windows: tuple[int | None, ...]
    """Per layer: tokens that a token sees, itself included."""
    ropes: tuple[RopeConfig, ...]
    rope_of_layer: tuple[int, ...]

    @classmethod
    def try_from(cls, config: Mapping[str, Any]) -> "DecoderConfig | None":
        """The config of a model that this decoder computes, or None for anything else."""
        try:
            family = _family(ConfigValues(config))
            return cls._read(family, ConfigValues(config, family.defaults))
        except ConfigError:
            return None

    @classmethod
    def _read(cls, family: Family, values: ConfigValues) -> "DecoderConfig":
        _refuse_unusual(family, values)
        num_layers = values.integer("num_hidden_layers", maximum=_MAX_LAYERS)
        hidden_size = values.integer("hidden_size")
        num_heads, num_kv_heads, head_dim = _heads(family, values)
        has_bias = family.has_optional_bias and "attention_bias" in values and values.boolean("attention_bias")
        scalar = values.integer("query_pre_attn_scalar") if family.has_gemma_norms else head_dim
        layer_ropes = family.ropes(values, head_dim, num_layers)
        return cls(
            hidden_size=hidden_size,
            intermediate_size=values.integer("intermediate_size"),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_dim=head_dim,
            vocab_size=values.integer("vocab_size"),
            rms_norm_eps=values.decimal("rms_norm_eps"),
            hidden_act=_hidden_act(values.text(family.hidden_act_key)),
            embedding_scale=hidden_size**0.5 if family.has_scaled_embedding else 1.0,
            attention_scale=scalar**-0.5,
            attention_softcap=_softcap(values, _SOFTCAPS[0]),
            logits_softcap=_softcap(values, _SOFTCAPS[1]),
            tie_word_embeddings=values.boolean("tie_word_embeddings"),
            has_qkv_bias=family.has_qkv_bias or has_bias,
            has_output_bias=has_bias,
            has_qk_norm=family.has_qk_norm or (family.has_optional_qk_norm and values.boolean("use_qk_norm")),
            has_gemma_norms=family.has_gemma_norms,
            has_fused_weights=family.has_fused_weights,
            has_gate=family.has_gate,
            sliding_windows=family.windows(values, num_layers),
            ropes=layer_ropes.ropes,
            rope_of_layer=layer_ropes.rope_of_layer,
        )


def _family(values: ConfigValues) -> Family:
    architectures = values.texts("architectures")
    family = FAMILIES.get(architectures[0]) if len(architectures) == 1 else None
    if family is None or values.text("model_type") != family.model_type:
        raise ConfigError("config.json is that of an unknown architecture")
    return family


def _refuse_unusual(family: Family, values: ConfigValues) -> None:
    for name, ordinary in _ORDINARY.items():
        values.refuse_other_than(name, ordinary)
    for name in _LENGTHS:
        if name in values:
            values.integer(name)
    if not family.has_softcaps:
        for name in _SOFTCAPS:
            values.refuse_other_than(name, (None,))
    if not family.has_optional_bias:
        values.refuse_other_than("attention_bias", (False,))


def _heads(family: Family, values: ConfigValues) -> tuple[int, int, int]:
    """Number of heads, number of key-value heads, and size of a head."""
    num_heads, hidden_size = values.integer("num_attention_heads"), values.integer("hidden_size")
    num_kv_heads, head_dim = num_heads, hidden_size // num_heads
    if not _is_derived(family, values, "num_key_value_heads"):
        num_kv_heads = values.integer("num_key_value_heads")
    is_derived = _is_derived(family, values, "head_dim")
    if not is_derived:
        head_dim = values.integer("head_dim")
    if hidden_size % num_heads and (is_derived or family.must_divide_hidden_size):
        raise ConfigError("config.json: hidden_size is no multiple of num_attention_heads")
    if num_heads % num_kv_heads:
        raise ConfigError("config.json: num_attention_heads is no multiple of num_key_value_heads")
    return num_heads, num_kv_heads, head_dim


def _is_derived(family: Family, values: ConfigValues, name: str) -> bool:
    """Whether a size is left out or null and follows from the others."""
    return values.is_null(name) and name in (family.null_sizes if name in values else family.absent_sizes)


def _hidden_act(name: str) -> HiddenAct:
    if name not in _HIDDEN_ACTS:
        raise ConfigError("config.json names an activation that is not known here")
    return _HIDDEN_ACTS[name]


def _softcap(values: ConfigValues, name: str) -> float | None:
    return None if values.is_null(name) else values.decimal(name)
