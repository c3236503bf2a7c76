#!/usr/bin/env python3
"""Writes a LoRA adapter with random weights, for measuring: a step takes as long as with one that means something.

    scripts/make_random_adapter.py MODEL_FOLDER FOLDER [--rank 16] [--targets q_proj,v_proj]

Without targets it changes every linear layer of the model but the output layer, as PEFT's `all-linear` does.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from safetensors.torch import save_file

from engine_core.weight_files import stored_tensors


def main() -> None:
    """Entry of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--targets", help="names of modules, with commas; all that there are where not given")
    arguments = parser.parse_args()
    rank, targets = arguments.rank, set(arguments.targets.split(",")) if arguments.targets else None
    generator, tensors, adapted = torch.Generator().manual_seed(0), {}, set()
    for name, tensor in sorted(stored_tensors(arguments.model).items()):
        module = name.removesuffix(".weight")
        target = module.rpartition(".")[2]
        if not target.endswith("_proj") or (targets is not None and target not in targets):
            continue
        adapted.add(target)
        num_outputs, num_inputs = tensor.shape
        for part, shape in (("A", (rank, num_inputs)), ("B", (num_outputs, rank))):
            values = torch.randn(shape, generator=generator) * 0.02
            tensors[f"base_model.model.{module}.lora_{part}.weight"] = values
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": sorted(adapted), "bias": "none"}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    (arguments.folder / "adapter_config.json").write_text(json.dumps(config, indent=1))
    save_file(tensors, arguments.folder / "adapter_model.safetensors")
    print(arguments.folder)


if __name__ == "__main__":
    main()
