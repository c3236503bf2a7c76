#!/usr/bin/env python3
"""What each way of keeping the weights costs in quality: perplexity and agreement with fp32 on real text.

    scripts/measure_quantization.py [MODEL_FOLDER] [--text FILE…] [--num-tokens 8192]

The text is this repository's own documentation unless files are given. Each variant computes the same chunks of 1,024
tokens on the CPU kernels; fp32 in plain torch is what they are compared with.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from engine_core.model.decoder.config import DecoderConfig
from engine_core.model.decoder.load import Quantization, load_decoder
from engine_core.model.kv_tensors import allocate_kv_tensors
from engine_core.model.network import Network, chunk_logits
from fast_inference.model_store import find_model

ROOT = Path(__file__).parents[1]
CHUNK = 1024
BLOCK_SIZE = 32
NUM_BLOCKS = CHUNK // BLOCK_SIZE
CPU = torch.device("cpu")
VARIANTS: tuple[tuple[str, torch.dtype, Quantization, bool], ...] = (
    ("float32", torch.float32, "none", False),
    ("bfloat16", torch.bfloat16, "none", True),
    ("int8", torch.bfloat16, "int8", True),
    ("int8-dynamic", torch.bfloat16, "int8-dynamic", True),
    ("int4", torch.bfloat16, "int4", True),
)


@torch.inference_mode()
def logits_of(config: DecoderConfig, network: Network, dtype: torch.dtype, token_ids: np.ndarray) -> torch.Tensor:
    """`[tokens, vocab]` fp32 of one chunk."""
    kv_tensors = allocate_kv_tensors(config, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE, dtype=dtype, device=CPU)
    return chunk_logits(network, token_ids, 0, np.arange(NUM_BLOCKS, dtype=np.int32), kv_tensors).float()


def measure(folder: Path, chunks: list[np.ndarray]) -> None:
    """Print a line for each variant."""
    config = DecoderConfig.try_from(json.loads((folder / "config.json").read_text()))
    if config is None:
        sys.exit(f"error: the decoder does not compute models like {folder}")
    best: list[torch.Tensor] = []
    expected = 0.0
    for name, dtype, quantization, use_kernels in VARIANTS:
        network = load_decoder(config, folder, dtype, CPU, CHUNK, quantization=quantization, use_kernels=use_kernels)
        losses, num_equal = [], 0
        for index, chunk in enumerate(chunks):
            logits = logits_of(config, network, dtype, chunk)[:-1]
            losses.append(torch.nn.functional.cross_entropy(logits, torch.from_numpy(chunk[1:])))
            choice = logits.argmax(dim=-1)
            if len(best) <= index:
                best.append(choice)
            num_equal += int((choice == best[index]).sum())
        perplexity = float(torch.stack(losses).mean().exp())
        expected = expected or perplexity
        num_positions = sum(len(chunk) - 1 for chunk in chunks)
        print(
            f"{name:>13}: perplexity {perplexity:.3f} ({perplexity / expected - 1:+.2%}), "
            f"same best token as float32 {num_equal / num_positions:.1%}",
            flush=True,
        )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description="quality of quantized weights")
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--text", nargs="+", type=Path, default=[ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))])
    parser.add_argument("--num-tokens", type=int, default=8192)
    arguments = parser.parse_args()
    folder = Path(find_model(arguments.model))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "\n".join(path.read_text() for path in arguments.text)
    token_ids = np.array(tokenizer.encode(text).ids[: arguments.num_tokens], dtype=np.int64)
    measure(folder, [token_ids[at : at + CHUNK] for at in range(0, len(token_ids) - 1, CHUNK)])


if __name__ == "__main__":
    main()
