#!/usr/bin/env python3
"""Compares the logits of a decoder on a GPU with plain torch in fp32: the kernels, and plain torch in bf16.

    scripts/measure_gpu_precision.py MODEL_FOLDER [--text FILE] [--num-tokens 2048]

Prints for each the root mean square of the differences as a share of that of the logits, how often the best token is
the same, and how much the perplexity of the text changes.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from engine_core.model.decoder.config import DecoderConfig
from engine_core.model.decoder.network import DecoderNetwork
from engine_core.model.decoder.triton_network import TritonDecoderNetwork
from engine_core.model.decoder.weights import load_decoder_weights
from engine_core.model.kv_tensors import allocate_kv_tensors
from engine_core.model.network import chunk_logits

BLOCK_SIZE = 32


@torch.inference_mode()
def logits_of(
    folder: Path, token_ids: npt.NDArray[np.int64], dtype: torch.dtype, *, in_plain_torch: bool
) -> torch.Tensor:
    """`[num_tokens, vocab_size]` fp32."""
    device = torch.device("cuda")
    config = DecoderConfig.try_from(json.loads((folder / "config.json").read_text()))
    if config is None:
        raise SystemExit(f"{folder} holds no decoder that the native network computes")
    weights = load_decoder_weights(folder, config, dtype, device)
    network = (DecoderNetwork if in_plain_torch else TritonDecoderNetwork)(config, weights, len(token_ids))
    block_ids = np.arange(-(-len(token_ids) // BLOCK_SIZE), dtype=np.int32)
    kv_tensors = allocate_kv_tensors(
        config, num_blocks=len(block_ids), block_size=BLOCK_SIZE, dtype=dtype, device=device
    )
    return chunk_logits(network, token_ids, 0, block_ids, kv_tensors, in_plain_torch=in_plain_torch).float()


def main() -> None:
    """Entry of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, default=Path("README.md"))
    parser.add_argument("--num-tokens", type=int, default=2048)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    token_ids = np.array(tokenizer.encode(arguments.text.read_text()).ids[: arguments.num_tokens], dtype=np.int64)
    next_ids = torch.from_numpy(token_ids[1:]).cuda()
    reference = logits_of(arguments.model, token_ids, torch.float32, in_plain_torch=True)
    loss = cross_entropy(reference[:-1], next_ids)
    for name, dtype, in_plain_torch in (
        ("kernels, float32", torch.float32, False),
        ("kernels, bfloat16", torch.bfloat16, False),
        ("plain torch, bfloat16", torch.bfloat16, True),
    ):
        logits = logits_of(arguments.model, token_ids, dtype, in_plain_torch=in_plain_torch)
        difference = float((logits - reference).norm() / reference.norm())
        same_best = float((logits.argmax(-1) == reference.argmax(-1)).float().mean())
        perplexity = float((cross_entropy(logits[:-1], next_ids) - loss).exp()) - 1
        print(f"{name}: off by {difference:.2%}, same best token {same_best:.1%}, perplexity {perplexity:+.2%}")


if __name__ == "__main__":
    main()
