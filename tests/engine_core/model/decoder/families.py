"""Small random models of every architecture that the decoder computes, with sizes that do not match by chance."""

from collections.abc import Callable
from pathlib import Path

import torch
import transformers

SIZES = {
    "vocab_size": 199,
    "hidden_size": 60,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1000.0,
    "long_factor": [2.0] * 4,
    "short_factor": [1.0 + 0.1 * index for index in range(4)],
    "original_max_position_embeddings": 256,
    "partial_rotary_factor": 0.5,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 2.0}
GEMMA3_ROPES = {
    "full_attention": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
GEMMA3_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]

FAMILIES: dict[str, tuple[str, dict]] = {
    "llama": ("Llama", {}),
    "llama-tied-biased": ("Llama", {"tie_word_embeddings": True, "attention_bias": True}),
    "llama-linear": ("Llama", {"rope_parameters": LINEAR}),
    "llama-llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "llama-yarn": ("Llama", {"rope_parameters": YARN}),
    "mistral": ("Mistral", {"sliding_window": 12}),
    "mistral-without-window": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {}),
    "qwen2-windows": ("Qwen2", {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 2}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True}),
    "phi3": ("Phi3", {"sliding_window": 40}),
    "phi3-longrope": (
        "Phi3",
        {
            "hidden_size": 96,
            "head_dim": 16,
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": 256,
        },
    ),
    "gemma2": ("Gemma2", {"sliding_window": 12, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 3.0}),
    "gemma3": (
        "Gemma3",
        {
            "sliding_window": 12,
            "query_pre_attn_scalar": 20,
            "rope_parameters": GEMMA3_ROPES,
            "layer_types": GEMMA3_LAYERS,
        },
    ),
}


def save_model(name: str, folder: Path) -> torch.nn.Module:
    """Make a model of a family; returns it in fp32."""
    kind, extra = FAMILIES[name]
    config_name = "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config"
    make_config: Callable = getattr(transformers, config_name)
    config = make_config(**{**SIZES, **extra})
    torch.manual_seed(len(name))
    model = disturb(getattr(transformers, f"{kind}ForCausalLM")(config))
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def disturb(model: torch.nn.Module) -> torch.nn.Module:
    """Give biases and norms values that are not what they are initialized to."""
    for parameter_name, parameter in model.named_parameters():
        if "norm" in parameter_name or parameter_name.endswith("bias"):
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()
