"""Which models the decoder computes, and their sizes and constants.

`DecoderConfig.try_from` reads a `config.json`. Invariant: what it accepts is computed as transformers does (tested with
equal logits for each family); anything unusual in a config means None, never a guess. Next: `rope.py`, `weights.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine_core.model.decoder.rope import RopeConfig

Values = Mapping[str, Any]
HiddenAct = Literal["silu", "gelu_tanh"]

_HIDDEN_ACTS: Mapping[str, HiddenAct] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_ABSENT: Mapping[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "mlp_bias": (False, None),
    "pretraining_tp": (1, None),
    "use_bidirectional_attention": (False, None),
    "is_encoder_decoder": (False, None),
}
"""Values that these keys must have: all others would compute something else."""
_SOFTCAPS = ("attn_logit_softcapping", "final_logit_softcapping")


@dataclass(frozen=True, slots=True)
class Family:
    """How the models of one architecture differ from Llama's."""

    model_type: str
    """As `config.json` names it beside the architecture."""
    windows: Callable[[Values, int], tuple[int | None, ...]]
    """Sliding window of each layer, for a config and a number of layers."""
    ropes: Callable[[Values, int], tuple[tuple[RopeConfig, ...], tuple[int, ...]]] | None = None
    """Rotary embeddings, and which one each layer has; for most, one for all."""
    has_gemma_norms: bool = False
    """Norms multiply with 1 + weight, and stand behind attention and MLP too."""
    has_softcaps: bool = False
    has_qk_norm: bool = False
    has_qkv_bias: bool = False
    """Always; else as `attention_bias` says, together with a bias of the output projection."""
    is_tied_by_default: bool = False


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Sizes and constants."""

    architecture: str
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
    has_qkv_bias: bool
    has_output_bias: bool
    has_qk_norm: bool
    has_gemma_norms: bool
    """Norm weights are stored as weight - 1, and norms follow attention and MLP too."""
    sliding_windows: tuple[int | None, ...]
    """Per layer: tokens that a token sees, itself included."""
    ropes: tuple[RopeConfig, ...]
    rope_of_layer: tuple[int, ...]

    @classmethod
    def try_from(cls, config: Values) -> "DecoderConfig | None":
        """The config of a model that this decoder computes, or None for anything else."""
        architectures: list[str] = config.get("architectures") or []
        family = _FAMILIES.get(architectures[0]) if len(architectures) == 1 else None
        if family is None or config.get("model_type") != family.model_type:
            return None
        if any(config.get(key) not in values for key, values in _ABSENT.items()):
            return None
        if not family.has_softcaps and any(config.get(key) is not None for key in _SOFTCAPS):
            return None
        try:
            return cls._read(architectures[0], family, config)
        except (KeyError, TypeError, ValueError):
            return None

    @classmethod
    def _read(cls, architecture: str, family: Family, config: Values) -> "DecoderConfig":
        num_heads, num_layers = int(config["num_attention_heads"]), int(config["num_hidden_layers"])
        hidden_size = int(config["hidden_size"])
        head_dim = int(config.get("head_dim") or hidden_size // num_heads)
        has_bias = bool(config.get("attention_bias"))
        ropes, rope_of_layer = (family.ropes or _one_rope)(config, head_dim)
        return cls(
            architecture=architecture,
            hidden_size=hidden_size,
            intermediate_size=int(config["intermediate_size"]),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=int(config.get("num_key_value_heads") or num_heads),
            head_dim=head_dim,
            vocab_size=int(config["vocab_size"]),
            rms_norm_eps=float(config["rms_norm_eps"]),
            hidden_act=_HIDDEN_ACTS[config.get("hidden_activation") or config["hidden_act"]],
            embedding_scale=hidden_size**0.5 if family.has_gemma_norms else 1.0,
            attention_scale=float(config["query_pre_attn_scalar"] if family.has_gemma_norms else head_dim) ** -0.5,
            attention_softcap=config.get(_SOFTCAPS[0]),
            logits_softcap=config.get(_SOFTCAPS[1]),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", family.is_tied_by_default)),
            has_qkv_bias=family.has_qkv_bias or has_bias,
            has_output_bias=has_bias and not family.has_qkv_bias,
            has_qk_norm=family.has_qk_norm,
            has_gemma_norms=family.has_gemma_norms,
            sliding_windows=family.windows(config, num_layers),
            ropes=ropes,
            rope_of_layer=rope_of_layer or (0,) * num_layers,
        )


# --- windows ---------------------------------------------------------------------------------------------------------


def _no_windows(config: Values, num_layers: int) -> tuple[int | None, ...]:
    if config.get("sliding_window") is not None or config.get("layer_types") is not None:
        raise ValueError("windows where none are known")
    return (None,) * num_layers


def _same_window(config: Values, num_layers: int) -> tuple[int | None, ...]:
    if config.get("layer_types") is not None:
        raise ValueError("kinds of layers where none are known")
    return (config.get("sliding_window"),) * num_layers


def _qwen_windows(config: Values, num_layers: int) -> tuple[int | None, ...]:
    if not config.get("use_sliding_window", False):
        return (None,) * num_layers
    first = int(config["max_window_layers"])
    kinds = config.get("layer_types") or [
        "sliding_attention" if index >= first else "full_attention" for index in range(num_layers)
    ]
    return _windows_of(kinds, config, num_layers)


def _gemma2_windows(config: Values, num_layers: int) -> tuple[int | None, ...]:
    kinds = config.get("layer_types") or ["sliding_attention", "full_attention"] * num_layers
    return _windows_of(kinds[:num_layers], config, num_layers)


def _gemma3_windows(config: Values, num_layers: int) -> tuple[int | None, ...]:
    return _windows_of(_gemma3_kinds(config, num_layers), config, num_layers)


def _gemma3_kinds(config: Values, num_layers: int) -> list[str]:
    pattern = int(config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6)
    default = ["full_attention" if (index + 1) % pattern == 0 else "sliding_attention" for index in range(num_layers)]
    return list(config.get("layer_types") or default)


def _windows_of(kinds: list[str], config: Values, num_layers: int) -> tuple[int | None, ...]:
    window_of = {"full_attention": None, "sliding_attention": int(config["sliding_window"])}
    windows = tuple(window_of[kind] for kind in kinds)
    if len(windows) != num_layers:
        raise ValueError("not as many kinds of layers as layers")
    return windows


# --- rotary embeddings -----------------------------------------------------------------------------------------------


def _one_rope(config: Values, head_dim: int) -> tuple[tuple[RopeConfig, ...], tuple[int, ...]]:
    return (RopeConfig.from_config(config, head_dim),), ()


def _gemma3_ropes(config: Values, head_dim: int) -> tuple[tuple[RopeConfig, ...], tuple[int, ...]]:
    """One for layers that see everything, and one for those with a window, which is never scaled."""
    parameters = config.get("rope_parameters")
    if parameters is None:
        full = RopeConfig.from_config(config, head_dim)
        sliding = RopeConfig("default", float(config["rope_local_base_freq"]), head_dim)
    else:
        full, sliding = (
            RopeConfig.from_config({**config, "rope_parameters": parameters[kind]}, head_dim)
            for kind in ("full_attention", "sliding_attention")
        )
    kinds = _gemma3_kinds(config, int(config["num_hidden_layers"]))
    return (full, sliding), tuple(int(kind == "sliding_attention") for kind in kinds)


_FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family("llama", _no_windows),
    "MistralForCausalLM": Family("mistral", _same_window),
    "Qwen2ForCausalLM": Family("qwen2", _qwen_windows, has_qkv_bias=True),
    "Qwen3ForCausalLM": Family("qwen3", _qwen_windows, has_qk_norm=True),
    "Phi3ForCausalLM": Family("phi3", _same_window),
    "Gemma2ForCausalLM": Family(
        "gemma2", _gemma2_windows, has_gemma_norms=True, has_softcaps=True, is_tied_by_default=True
    ),
    "Gemma3ForCausalLM": Family(
        "gemma3_text", _gemma3_windows, _gemma3_ropes, has_gemma_norms=True, has_qk_norm=True, is_tied_by_default=True
    ),
}
