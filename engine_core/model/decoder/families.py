"""The architectures that the decoder computes, and in what they differ from Llama.

`FAMILIES` has for each what transformers assumes where a config leaves a key out, so that no default of another family
is guessed. Sizes that such a config must have are in no table: without them, it is left to transformers. Next:
`config.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engine_core.config_values import ConfigValues
from engine_core.model.decoder.rope_config import LayerRopes, gemma3_ropes, minimal_llm_rope, one_rope, phi3_rope
from engine_core.model.decoder.windows import (
    Windows,
    gemma2_windows,
    gemma3_windows,
    no_windows,
    qwen_windows,
    same_window,
)

_SIZES = frozenset({"head_dim", "num_key_value_heads"})


@dataclass(frozen=True, slots=True)
class Family:
    """How the models of one architecture differ from Llama's."""

    model_type: str
    """As `config.json` names it beside the architecture."""
    defaults: Mapping[str, Any]
    """Of transformers' config class, for keys that a file may lack."""
    windows: Callable[[ConfigValues, int], Windows] = no_windows
    """Sliding window of each layer, for a config and a number of layers."""
    ropes: Callable[[ConfigValues, int, int], LayerRopes] = one_rope
    """For a config, the size of a head and a number of layers."""
    absent_sizes: frozenset[str] = frozenset()
    """Which of `head_dim` and `num_key_value_heads` follow from other sizes where the file lacks them."""
    null_sizes: frozenset[str] = frozenset()
    """Which of them do where the file has null."""
    hidden_act_key: str = "hidden_act"
    must_divide_hidden_size: bool = False
    """Whether transformers refuses a `hidden_size` that is no multiple of the number of heads."""
    has_scaled_embedding: bool = False
    """Embeddings are multiplied with the root of `hidden_size`."""
    has_gemma_norms: bool = False
    """Norms multiply with 1 + weight, and stand behind attention and MLP too."""
    has_softcaps: bool = False
    has_qk_norm: bool = False
    has_optional_qk_norm: bool = False
    """As `use_qk_norm` says."""
    has_qkv_bias: bool = False
    """Always, and then the output projection has none."""
    has_optional_bias: bool = False
    """As `attention_bias` says, of all four projections."""
    has_fused_weights: bool = False
    """The files have QKV and gate/up each as one matrix."""
    has_gate: bool = True
    """The MLP multiplies what its activation gives with a second product; else there is only the first, named `up`."""


_DEFAULTS: Mapping[str, Any] = {"rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False}
_QWEN_DEFAULTS: Mapping[str, Any] = {
    **_DEFAULTS,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_PHI3_DEFAULTS: Mapping[str, Any] = {
    **_DEFAULTS,
    "rms_norm_eps": 1e-5,
    "original_max_position_embeddings": 4096,
    "partial_rotary_factor": 1.0,
}
_GEMMA_DEFAULTS: Mapping[str, Any] = {
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}

MINIMAL_LLM = "MinimalLLMForCausalLM"
"""Known to no transformers: its files are made by `fast_inference/minimal_llm_conversion.py`, and complete."""

FAMILIES: Mapping[str, Family] = {
    "LlamaForCausalLM": Family(
        "llama",
        _DEFAULTS,
        absent_sizes=_SIZES,
        null_sizes=_SIZES,
        must_divide_hidden_size=True,
        has_optional_bias=True,
    ),
    "MistralForCausalLM": Family(
        "mistral",
        {**_DEFAULTS, "sliding_window": 4096},
        same_window,
        absent_sizes=frozenset({"head_dim"}),
        null_sizes=frozenset({"head_dim"}),
    ),
    "Qwen2ForCausalLM": Family(
        "qwen2",
        _QWEN_DEFAULTS,
        qwen_windows,
        absent_sizes=frozenset({"head_dim"}),
        null_sizes=frozenset({"num_key_value_heads"}),
        has_qkv_bias=True,
    ),
    "Qwen3ForCausalLM": Family(
        "qwen3",
        _QWEN_DEFAULTS,
        qwen_windows,
        null_sizes=frozenset({"num_key_value_heads"}),
        has_qk_norm=True,
        has_optional_bias=True,
    ),
    "Phi3ForCausalLM": Family(
        "phi3",
        _PHI3_DEFAULTS,
        same_window,
        phi3_rope,
        absent_sizes=_SIZES,
        null_sizes=frozenset({"num_key_value_heads"}),
        has_fused_weights=True,
    ),
    "Gemma2ForCausalLM": Family(
        "gemma2",
        {**_GEMMA_DEFAULTS, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        gemma2_windows,
        hidden_act_key="hidden_activation",
        must_divide_hidden_size=True,
        has_scaled_embedding=True,
        has_gemma_norms=True,
        has_softcaps=True,
        has_optional_bias=True,
    ),
    "Gemma3ForCausalLM": Family(
        "gemma3_text",
        _GEMMA_DEFAULTS,
        gemma3_windows,
        gemma3_ropes,
        hidden_act_key="hidden_activation",
        must_divide_hidden_size=True,
        has_scaled_embedding=True,
        has_gemma_norms=True,
        has_qk_norm=True,
        has_optional_bias=True,
    ),
    MINIMAL_LLM: Family(
        "minimal_llm",
        {},
        ropes=minimal_llm_rope,
        has_scaled_embedding=True,
        has_optional_qk_norm=True,
        has_gate=False,
    ),
}
