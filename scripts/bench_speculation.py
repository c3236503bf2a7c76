#!/usr/bin/env python3
"""What n-gram speculation gains where the answer copies, and what it costs where it does not.

    scripts/bench_speculation.py                                     # SmolLM2, one request at a time
    scripts/bench_speculation.py --dtype float32 --concurrency 4 --rounds 5

Two cores in this process, one with `--speculative ngram`, answer the same prompts in turn: each round of a workload
runs on one, then on the other, always `--concurrency` requests at once. `copy`: repeat a text of this project. `edit`:
correct it. `chat`: short questions. `random`: random tokens, sampled at temperature 1, which nothing can foresee.
Printed are the output tokens per second (medians of the rounds, the first one left out), the median ratio, draft tokens
and accepted ones for each token of the answers, and how many answers were the same: all with greedy float32, as many as
rounding leaves else. Nothing else should run on the machine.
"""

import argparse
import itertools
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tokenizers import Tokenizer

from engine_core.model.loader import load_model_runner
from fast_inference.model_store import resolve_model
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from tests.factories import CoreHarness

ROOT = Path(__file__).resolve().parents[1]
BLOCK_SIZE = 32
NUM_BLOCKS = 256
NUM_TURNS = 3
"""Requests of a round that come one after the other."""
CHAT = (
    "What is the capital of France, and what is it known for?",
    "Explain how a bicycle stays upright.",
    "Write a short story about a lighthouse keeper.",
    "Why is the sky blue in the day and red in the evening?",
)
TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@dataclass
class Workload:
    """Prompts, round after round."""

    name: str
    rounds: list[list[list[int]]]
    """Of each round the prompts, as token ids."""
    temperature: float = 0.0


@dataclass
class Result:
    """One core's rounds of one workload."""

    tokens_per_second: list[float] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)


def passages(num_words: int) -> list[str]:
    """Texts of so many words, one after the other in the project's documents."""
    words = [word for name in ("engine", "architecture") for word in (ROOT / f"docs/{name}.md").read_text().split()]
    return [" ".join(words[start : start + num_words]) for start in range(0, len(words) - num_words, num_words)]


def make_workloads(tokenizer: Tokenizer, num_rounds: int, concurrency: int) -> list[Workload]:
    """The four workloads."""
    texts = passages(120)
    asked = {
        "copy": [f"Repeat this text word for word:\n\n{text}" for text in texts],
        "edit": [f"Correct the spelling of this text and change nothing else:\n\n{text}" for text in texts],
        "chat": list(CHAT),
    }
    count = NUM_TURNS * concurrency
    workloads = []
    for name, questions in asked.items():
        prompts = itertools.cycle([tokenizer.encode(TURN.format(question)).ids for question in questions])
        workloads.append(Workload(name, [list(itertools.islice(prompts, count)) for _ in range(num_rounds)]))
    generator, size = random.Random(1), tokenizer.get_vocab_size()
    noise = [[[generator.randrange(size) for _ in range(200)] for _ in range(count)] for _ in range(num_rounds)]
    return [*workloads, Workload("random", noise, temperature=1.0)]


def make_core(arguments: argparse.Namespace, speculative: str) -> CoreHarness:
    """A core with a model of its own."""
    model_dir = resolve_model(arguments.model, lambda stage, fraction: None)
    scheduling = {
        "max_num_seqs": arguments.concurrency,
        "max_num_batched_tokens": 2048,
        "speculative": speculative,
        "speculative_tokens": arguments.tokens,
        "speculative_max_batch": arguments.concurrency,
    }
    runner = load_model_runner(
        ModelConfig(model=model_dir, dtype=arguments.dtype, threads=arguments.threads, max_model_len=2048),
        CacheConfig(block_size=BLOCK_SIZE, num_blocks=NUM_BLOCKS),
        SchedulerConfig.model_validate(scheduling),
        lambda stage: None,
    )
    return CoreHarness(runner, block_size=BLOCK_SIZE, **scheduling)


def run_round(core: CoreHarness, prompts: list[list[int]], temperature: float, max_tokens: int) -> Result:
    """Answer these prompts, as many at once as the core has seats."""
    core.core.reset_prefix_cache()
    started_at = time.perf_counter()
    ids = [
        core.add(prompt, max_tokens=max_tokens, temperature=temperature, seed=seed)
        for seed, prompt in enumerate(prompts)
    ]
    core.run()
    seconds = time.perf_counter() - started_at
    answers = [core.token_ids[request_id] for request_id in ids]
    return Result([sum(map(len, answers)) / seconds], answers)


def compare(workload: Workload, plain: CoreHarness, drafting: CoreHarness, max_tokens: int) -> None:
    """Run a workload on both cores and print a line."""
    results = (Result(), Result())
    drafted, accepted = drafting.scheduler.num_draft_tokens, drafting.scheduler.num_accepted_tokens
    for prompts in workload.rounds:
        for core, result in ((plain, results[0]), (drafting, results[1])):
            done = run_round(core, prompts, workload.temperature, max_tokens)
            result.tokens_per_second += done.tokens_per_second
            result.answers += done.answers
    drafted = drafting.scheduler.num_draft_tokens - drafted
    accepted = drafting.scheduler.num_accepted_tokens - accepted
    num_tokens = sum(map(len, results[1].answers))
    plain_speeds, speeds = (result.tokens_per_second[1:] for result in results)
    ratio = statistics.median(new / old for old, new in zip(plain_speeds, speeds, strict=True))
    same = sum(one == other for one, other in zip(results[0].answers, results[1].answers, strict=True))
    print(
        f"{workload.name:<8}{statistics.median(plain_speeds):>10.1f}{statistics.median(speeds):>10.1f}{ratio:>8.2f}"
        f"{drafted / num_tokens:>10.2f}{accepted / num_tokens:>10.2f}{same:>8} of {len(results[0].answers)}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="tokens per second with and without n-gram speculation")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="as `serve` takes it")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--threads", type=int, help="threads of the model; all allowed CPUs where not set")
    parser.add_argument("--concurrency", type=int, default=1, help="requests that are answered together")
    parser.add_argument("--tokens", type=int, default=5, help="most draft tokens of a request in one step")
    parser.add_argument("--max-tokens", type=int, default=150, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    plain, drafting = make_core(arguments, "off"), make_core(arguments, "ngram")
    tokenizer = Tokenizer.from_file(str(Path(plain.intake._info.tokenizer_dir) / "tokenizer.json"))
    workloads = make_workloads(tokenizer, 1 + arguments.rounds, arguments.concurrency)
    print(f"{'':<8}{'off':>10}{'ngram':>10}{'ratio':>8}{'drafted':>10}{'right':>10}{'same answers':>14}")
    for workload in workloads:
        compare(workload, plain, drafting, arguments.max_tokens)


if __name__ == "__main__":
    main()
