"""Small random models of architectures that only transformers computes: other positions, norms, MLPs and heads."""

from pathlib import Path

import torch
import transformers

from tests.engine_core.model.decoder.families import disturb

LENGTH = 128
_COMMON = {"vocab_size": 199, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0, "initializer_range": 0.2}
_GPT2_SIZES = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": LENGTH}
_SIZES = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "max_position_embeddings": LENGTH}
_MOE = {"num_key_value_heads": 2, "num_experts_per_tok": 2, "intermediate_size": 96}

FAMILIES: dict[str, tuple[str, str, dict[str, object]]] = {
    "gpt2: learned positions": ("GPT2Config", "GPT2LMHeadModel", _GPT2_SIZES),
    "gpt-bigcode: one head of keys": ("GPTBigCodeConfig", "GPTBigCodeForCausalLM", _GPT2_SIZES),
    "gpt-j: interleaved rotary": ("GPTJConfig", "GPTJForCausalLM", {**_GPT2_SIZES, "rotary_dim": 8}),
    "gpt-neox: partial rotary": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {**_SIZES, "intermediate_size": 96}),
    "phi: partial rotary and biases": ("PhiConfig", "PhiForCausalLM", {**_SIZES, "intermediate_size": 96}),
    "opt: learned positions from 2 on": (
        "OPTConfig",
        "OPTForCausalLM",
        {**_SIZES, "ffn_dim": 96, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
    ),
    "mixtral: experts": ("MixtralConfig", "MixtralForCausalLM", {**_SIZES, **_MOE, "num_local_experts": 4}),
}


def save_model(name: str, folder: Path) -> torch.nn.Module:
    """Make a model of a family, its weights in several files; returns it in fp32."""
    config_class, network_class, sizes = FAMILIES[name]
    torch.manual_seed(len(name))
    model = disturb(getattr(transformers, network_class)(getattr(transformers, config_class)(**{**_COMMON, **sizes})))
    model.save_pretrained(folder, max_shard_size="200KB")
    assert (folder / "model.safetensors.index.json").exists()
    return model
