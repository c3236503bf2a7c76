#!/usr/bin/env python3
"""Writes a Llama with random weights, for measuring: a step takes as long as with weights that mean something.

    scripts/make_random_model.py FOLDER [--size 1b|8b] [--tokenizer-of MODEL_FOLDER]

The sizes are those of Llama 3.2 1B and Llama 3.1 8B, with the vocabulary of the tokenizer's model.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

SIZES = {
    "tiny": {"hidden": 256, "intermediate": 512, "layers": 4, "heads": 8, "kv_heads": 2, "head_dim": 32},
    "1b": {"hidden": 2048, "intermediate": 8192, "layers": 16, "heads": 32, "kv_heads": 8, "head_dim": 64},
    "8b": {"hidden": 4096, "intermediate": 14336, "layers": 32, "heads": 32, "kv_heads": 8, "head_dim": 128},
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def config_of(size: dict[str, int], vocab_size: int, eos_token_id: int) -> dict[str, object]:
    """`config.json` of a Llama."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size["hidden"],
        "intermediate_size": size["intermediate"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
        "num_key_value_heads": size["kv_heads"],
        "head_dim": size["head_dim"],
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": 8192,
        "vocab_size": vocab_size,
        "tie_word_embeddings": True,
        "eos_token_id": eos_token_id,
        "torch_dtype": "bfloat16",
    }


def random_weights(size: dict[str, int], vocab_size: int, device: str) -> dict[str, torch.Tensor]:
    """By the names of transformers' Llama, in bf16."""
    hidden, intermediate = size["hidden"], size["intermediate"]
    num_query_rows, num_kv_rows = size["heads"] * size["head_dim"], size["kv_heads"] * size["head_dim"]
    shapes = {"model.embed_tokens.weight": (vocab_size, hidden), "model.norm.weight": (hidden,)}
    for index in range(size["layers"]):
        prefix = f"model.layers.{index}."
        shapes |= {
            f"{prefix}input_layernorm.weight": (hidden,),
            f"{prefix}post_attention_layernorm.weight": (hidden,),
            f"{prefix}self_attn.q_proj.weight": (num_query_rows, hidden),
            f"{prefix}self_attn.k_proj.weight": (num_kv_rows, hidden),
            f"{prefix}self_attn.v_proj.weight": (num_kv_rows, hidden),
            f"{prefix}self_attn.o_proj.weight": (hidden, num_query_rows),
            f"{prefix}mlp.gate_proj.weight": (intermediate, hidden),
            f"{prefix}mlp.up_proj.weight": (intermediate, hidden),
            f"{prefix}mlp.down_proj.weight": (hidden, intermediate),
        }
    generator = torch.Generator(device).manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator, device=device, dtype=torch.float32)
        weights[name] = (values * 0.02 if len(shape) == 2 else 1 + values * 0.02).to(torch.bfloat16).cpu()
    return weights


def main() -> None:
    """Entry of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=sorted(SIZES), default="1b")
    parser.add_argument("--tokenizer-of", type=Path, required=True, metavar="MODEL_FOLDER")
    arguments = parser.parse_args()
    size = SIZES[arguments.size]
    source = json.loads((arguments.tokenizer_of / "config.json").read_text())
    arguments.folder.mkdir(parents=True, exist_ok=True)
    config = config_of(size, source["vocab_size"], source["eos_token_id"])
    (arguments.folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in TOKENIZER_FILES:
        if (arguments.tokenizer_of / name).is_file():
            shutil.copy(arguments.tokenizer_of / name, arguments.folder / name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    save_file(random_weights(size, source["vocab_size"], device), arguments.folder / "model.safetensors")
    print(arguments.folder)


if __name__ == "__main__":
    main()
