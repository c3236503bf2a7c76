#!/usr/bin/env python3
"""How long picking one token takes, from the argmax on: the kernel against torch, one thread, microseconds per row.

    scripts/bench_sampling.py                        # 49,152 logits, normal with a standard deviation of 3
    scripts/bench_sampling.py --spread 1.5           # flatter: top_p keeps thousands of tokens

The best of many repetitions counts, so that other work on the machine matters little.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from engine_core.model.kernels.bindings import load_library
from engine_core.model.kernels.build import kernel_library
from engine_core.model.sampling.native_token_picker import NativeTokenPicker
from engine_core.model.sampling.state import SamplingState
from engine_core.model.sampling.token_picker import TORCH_PICKER, RandomRows, TokenPicker
from engine_core.outputs import NewRequestData, RequestKey
from ipc.messages import Task
from ipc.sampling_params import SamplingParams

NUM_ROWS = 8
CASES: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.7},
    {"top_p": 0.95},
    {"top_k": 40},
    {"top_k": 50, "top_p": 0.9},
    {"min_p": 0.05},
)


def random_rows(case: dict[str, Any], vocab_size: int) -> RandomRows | None:
    """Requests with these parameters and seeds of their own."""
    states = []
    for seed in range(NUM_ROWS):
        params = SamplingParams(max_tokens=1, seed=seed, **case)
        states.append(SamplingState(NewRequestData(RequestKey(seed), (1,), 1, params, Task.GENERATE, ())))
    return RandomRows.build(states, vocab_size, torch.device("cpu"))


def best_us_per_row(picker: TokenPicker, logits: torch.Tensor, random: RandomRows | None, seconds: float) -> float:
    """The least time of one row, of as many repetitions as fit into `seconds`."""
    best, end = float("inf"), time.perf_counter() + seconds
    for repetition in itertools.count():
        if repetition >= 3 and time.perf_counter() > end:
            return best * 1e6 / NUM_ROWS
        rows = logits.clone()
        started_at = time.perf_counter()
        picker.pick(rows, random)
        best = min(best, time.perf_counter() - started_at)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="how long picking a token takes")
    parser.add_argument("--vocab-size", type=int, default=49_152)
    parser.add_argument("--spread", type=float, default=3.0, help="standard deviation of the logits")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each number")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logits = torch.randn(NUM_ROWS, arguments.vocab_size, generator=torch.Generator().manual_seed(1)) * arguments.spread
    pickers: tuple[TokenPicker, ...] = (NativeTokenPicker(load_library(kernel_library())), TORCH_PICKER)
    print(f"{'':<36}{'kernel µs':>10}{'torch µs':>10}")
    for case in CASES:
        random = random_rows(case, arguments.vocab_size)
        times = [best_us_per_row(picker, logits, random, arguments.seconds) for picker in pickers]
        print(f"{case!s:<36}{times[0]:>10.0f}{times[1]:>10.0f}")


if __name__ == "__main__":
    main()
