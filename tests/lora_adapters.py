"""Random LoRA adapters on disk, as PEFT writes them, and the checkpoints that they are equal to."""

import json
import math
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ALL_TARGETS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj")


def make_adapter(
    folder: Path, model_dir: Path, *, seed: int = 0, targets=ALL_TARGETS, rank: int = 8, alpha: float = 16, **settings
) -> Path:
    """An adapter that changes what these modules of all layers, as far as there are any, give by about half of it.

    Returns its folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator, tensors, changed = torch.Generator().manual_seed(seed), {}, set()
    for name, weight in sorted(load_file(model_dir / "model.safetensors").items()):
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] in targets:
            changed.add(module.rpartition(".")[2])
            (num_outputs, num_inputs), weight = weight.shape, weight.float()
            a = torch.randn(rank, num_inputs, generator=generator) / math.sqrt(num_inputs)
            b = torch.randn(num_outputs, rank, generator=generator)
            b *= 0.5 * float(weight.norm() / (b @ a).norm()) * rank / alpha
            tensors |= {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(changed),
        "bias": "none",
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return folder


def merge_adapter(folder: Path, model_dir: Path, adapter_dir: Path, scale: float = 2.0) -> Path:
    """The model with W + scale · B · A in the place of W; returns its folder."""
    shutil.copytree(model_dir, folder, dirs_exist_ok=True)
    weights, parts = load_file(model_dir / "model.safetensors"), load_file(adapter_dir / "adapter_model.safetensors")
    for name in parts:
        if ".lora_A." in name:
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            weight = weights[f"{module}.weight"]
            merged = weight.double() + scale * parts[name.replace("lora_A", "lora_B")].double() @ parts[name].double()
            weights[f"{module}.weight"] = merged.to(weight.dtype)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
