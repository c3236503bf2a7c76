#!/usr/bin/env python3
"""What it costs a frontend to choose the core of a request: microseconds for each number of cores and length of prompt.

    scripts/bench_routing.py [--cores 1,2,8,64,256] [--tokens 20,100,500,1000,2000,4000] [--requests 4000] [--json]

No server is needed. The traffic is what the router finds hardest: half of the requests are the next turn of a chat,
half begin a new one with a system prompt that all share, the memory is full, and the cores are loaded enough that
their loads must be compared. Rounds repeat the same choices, and each choice counts with its fastest round: what else
runs on the machine disturbs some of them, and never all of one.
"""

import argparse
import gc
import json
import random
import statistics
import sys
import time
from array import array
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from frontend.engine_router import EngineRouter
from ipc.messages import Add, CoreState, Load, RequestId, Welcome
from ipc.placement import CoreView
from ipc.sampling_params import SamplingParams

VOCAB_SIZE = 49_152
NUM_CHATS = 500
SEATS = 64
NUM_BLOCKS = 8_000
BLOCK_SIZE = 32


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="microseconds to choose the core of a request")
    parser.add_argument("--cores", type=_numbers, default="1,2,8,64,256", help="numbers of cores")
    parser.add_argument("--tokens", type=_numbers, default="20,100,500,1000,2000,4000", help="lengths of prompts")
    parser.add_argument("--requests", type=int, default=4000, help="that are timed, after twice as many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args(argv)
    rows = [
        {"cores": num_cores, "prompt_tokens": num_tokens, **measure(num_cores, num_tokens, arguments)}
        for num_cores in arguments.cores
        for num_tokens in arguments.tokens
    ]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'cores':>6} {'prompt tokens':>14} {'median µs':>10} {'p99 µs':>8}")
    for row in rows:
        print(f"{row['cores']:6} {row['prompt_tokens']:14} {row['median_us']:10.1f} {row['p99_us']:8.1f}")


def measure(num_cores: int, num_tokens: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Median and 99th percentile of the time of one choice."""
    requests = _traffic(num_tokens, 3 * arguments.requests, random.Random(num_tokens))
    rounds = [_times_ns(num_cores, requests) for _ in range(arguments.rounds)]
    times_us = [min(times_ns) / 1000 for times_ns in zip(*rounds, strict=True)][2 * arguments.requests :]
    return {"median_us": statistics.median(times_us), "p99_us": statistics.quantiles(times_us, n=100)[98]}


def _times_ns(num_cores: int, requests: Sequence[Add]) -> list[int]:
    draw = random.Random(0)
    cores = [_core(str(index), draw) for index in range(num_cores)]
    router = EngineRouter()
    router.on_cores_changed([core.name for core in cores])
    times_ns = []
    gc.collect()
    for add in requests:
        started_ns = time.perf_counter_ns()
        index = router.choose(add, cores)
        times_ns.append(time.perf_counter_ns() - started_ns)
        cores[index].load = _load(draw)
    return times_ns


def _traffic(num_tokens: int, num_requests: int, draw: random.Random) -> list[Add]:
    system_prompt = _tokens(num_tokens // 2, draw)
    chats = [[*system_prompt, *_tokens(num_tokens // 4, draw)] for _ in range(NUM_CHATS)]
    adds = []
    for number in range(num_requests):
        prompt = draw.choice(chats) if number % 2 else system_prompt
        prompt = [*prompt, *_tokens(num_tokens - len(prompt), draw)]
        adds.append(Add(RequestId(number + 1), array("i", prompt), SamplingParams(max_tokens=64)))
    return adds


def _core(name: str, draw: random.Random) -> CoreView:
    return CoreView(name, is_ready=True, state=CoreState.READY, welcome=_welcome(), load=_load(draw))


def _load(draw: random.Random) -> Load:
    """Loads that differ by about as much as leaves a prefix."""
    return Load(draw.randrange(SEATS // 2), draw.randrange(4), draw.randrange(4096), NUM_BLOCKS // 2, NUM_BLOCKS)


def _welcome() -> Welcome:
    return Welcome(
        epoch=1, core_pid=1, core_pid_start_ticks=1, model_id="m", model_fingerprint="f", tokenizer_dir="/t",
        vocab_size=VOCAB_SIZE, eos_token_ids=(2,), max_model_len=8192, block_size=BLOCK_SIZE, num_blocks=NUM_BLOCKS,
        max_num_seqs=SEATS, embedding_size=0, max_queued_requests=1024, max_queued_tokens=1_000_000,
        beat_interval_ms=500, lease_ms=5000, dtype="bfloat16", device="cpu", core_version="0",
    )  # fmt: skip


def _tokens(count: int, draw: random.Random) -> list[int]:
    return draw.choices(range(VOCAB_SIZE), k=count)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    main()
