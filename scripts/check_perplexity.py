#!/usr/bin/env python3
"""Whether a model says here what it says in transformers: perplexity of a text, by the engine core and by transformers.

    scripts/check_perplexity.py smollm2-135m-instruct
    scripts/check_perplexity.py model.gguf --dtype bfloat16 --limit 0.03

The text is cut into pieces of `--context` tokens. The engine core computes each as a prompt whose log-probabilities are
asked for, in chunks; transformers computes each in one pass in fp32, for a GGUF file from the weights that transformers
itself dequantizes. Prints both, and exits 1 if they differ by more than `--limit` or if the token ids do.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tokenizers import Tokenizer

from engine_core.model.loader import load_model_runner
from fast_inference.gguf_conversion import gguf_tokenizer, load_gguf
from fast_inference.model_store import resolve_model
from fast_inference.progress import StartProgress
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from tests.factories import CoreHarness

ROOT = Path(__file__).resolve().parents[1]
BLOCK_SIZE = 32


def engine_losses(
    folder: str, pieces: Sequence[list[int]], *, dtype: str, context: int, threads: int | None
) -> list[float]:
    """Negative log-probability of each token but the first of each piece, by the engine core."""
    config = ModelConfig(model=folder, dtype=dtype, device="cpu", threads=threads, max_model_len=context + 1)
    settings: dict[str, Any] = {"max_num_seqs": 2, "max_num_batched_tokens": 256}
    cache = CacheConfig(block_size=BLOCK_SIZE, num_blocks=2 + 2 * context // BLOCK_SIZE)
    runner = load_model_runner(config, cache, SchedulerConfig(**settings), lambda stage: None)
    harness = CoreHarness(runner, block_size=BLOCK_SIZE, **settings)
    losses: list[float] = []
    for piece in pieces:
        request_id = harness.add(piece, max_tokens=1, num_prompt_logprobs=0)
        harness.run()
        rows = harness.logprobs[request_id][: harness.num_prompt_logprobs[request_id]]
        losses += [-values[token_ids.index(piece[at])] for at, (_, token_ids, values) in enumerate(rows, start=1)]
    return losses


def reference_model(gguf: Path | None, folder: str) -> Any:
    """The model in fp32: from the GGUF file where there is one, else from the folder."""
    from transformers import AutoModelForCausalLM

    if gguf is None:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loaded = load_gguf(gguf, "float32")
    model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    return model.eval()


@torch.inference_mode()
def transformers_losses(model: Any, pieces: Sequence[list[int]]) -> list[float]:
    """The same by transformers' own forward pass."""
    losses: list[float] = []
    for piece in pieces:
        ids = torch.tensor(piece)
        logits = model(ids[None]).logits[0, :-1]
        losses += torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none").tolist()
    return losses


def perplexity(losses: Sequence[float]) -> float:
    """Of these tokens."""
    return math.exp(math.fsum(losses) / len(losses))


def main() -> int:
    """Parse and run; returns the exit status."""
    parser = argparse.ArgumentParser(description="perplexity of the engine core beside that of transformers")
    parser.add_argument("model", help="a known name, a folder, a hub id or a .gguf file")
    parser.add_argument("--text", type=Path, default=ROOT / "docs" / "architecture.md")
    parser.add_argument("--num-bytes", type=int, default=20 * 1024, help="of the text (default: 20 KB)")
    parser.add_argument("--context", type=int, default=768, help="tokens of a piece")
    parser.add_argument("--dtype", default="float32", help="in which the engine core computes")
    parser.add_argument("--threads", type=int, help="one is best where other programs run (default: all CPUs)")
    parser.add_argument("--limit", type=float, default=0.01, help="largest relative difference")
    arguments = parser.parse_args()
    from transformers import AutoTokenizer

    with StartProgress() as progress:
        folder = resolve_model(arguments.model, progress)
    text = arguments.text.read_bytes()[: arguments.num_bytes].decode(errors="ignore")
    token_ids = Tokenizer.from_file(str(Path(folder, "tokenizer.json"))).encode(text).ids
    is_gguf = arguments.model.endswith(".gguf")
    source = Path(arguments.model).absolute()
    tokenizer = gguf_tokenizer(source) if is_gguf else AutoTokenizer.from_pretrained(folder)
    if tokenizer(text).input_ids != token_ids:
        print("the token ids differ from those of transformers")
        return 1
    context = arguments.context
    pieces = [token_ids[at : at + context] for at in range(0, len(token_ids) - 1, context)]
    ours = perplexity(engine_losses(folder, pieces, dtype=arguments.dtype, context=context, threads=arguments.threads))
    print(f"{len(text.encode())} bytes, {len(token_ids)} tokens in {len(pieces)} pieces")
    print(f"engine core {ours:.4f} ({arguments.dtype})", flush=True)
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    theirs = perplexity(transformers_losses(reference_model(source if is_gguf else None, folder), pieces))
    difference = ours / theirs - 1
    print(f"transformers {theirs:.4f} (float32): {difference:+.4%}")
    return 0 if abs(difference) <= arguments.limit else 1


if __name__ == "__main__":
    sys.exit(main())
