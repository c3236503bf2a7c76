#!/usr/bin/env python3
"""Where the time of an engine step goes: a core in this process, with a batch of requests that only decode.

    scripts/profile_step.py --running 256                                     # the fake model: the loop alone
    scripts/profile_step.py --model smollm2-135m-instruct --running 64        # what share the loop has with a model

Times are taken around methods of the core's objects, which know nothing of it; `update` is what is left of
`EngineCore.step` (tokens, stops, outputs). `encode` makes the STEP message of the one client, which a server does on
its I/O thread. The share that is printed means something with a real model only. Nothing else should run on the
machine.
"""

import argparse
import gc
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine_core.outputs import ModelRunner
from fast_inference.bench.decode_batch import BLOCK_SIZE, DecodeBatch, blocks_of, encode_step, load_runner
from fast_inference.bench.stopwatch import Stopwatch
from fast_inference.model_store import resolve_model
from ipc.config import FAKE_MODEL, CacheConfig, FakeModelConfig, ModelConfig

NUM_WARM_UP_STEPS = 10


def make_runner(arguments: argparse.Namespace, folder: Path) -> ModelRunner:
    """The fake model, with its tokenizer in the folder, or a real one."""
    num_blocks = blocks_of(arguments.running, arguments.context, NUM_WARM_UP_STEPS + arguments.steps)
    if arguments.model == FAKE_MODEL:
        from engine_core.model.fake_runner import FakeModelRunner

        cache = CacheConfig(block_size=BLOCK_SIZE, num_blocks=num_blocks)
        return FakeModelRunner(ModelConfig(model=FAKE_MODEL), cache, FakeModelConfig(), folder)
    model_dir = resolve_model(arguments.model, lambda stage, fraction: print(stage, file=sys.stderr))
    model = ModelConfig(model=model_dir, threads=arguments.threads)
    return load_runner(model, arguments.running, num_blocks, lambda stage: print(stage, file=sys.stderr))


def profile(arguments: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Seconds of each part, one number for each measured step."""
    runner, stopwatch = make_runner(arguments, folder), Stopwatch()
    num_steps = NUM_WARM_UP_STEPS + arguments.steps
    batch = DecodeBatch(runner, arguments.running, arguments.context, num_steps, temperature=arguments.temperature)
    for _ in range(NUM_WARM_UP_STEPS):
        batch.step()
    stopwatch.wrap(batch.scheduler, "schedule", "schedule")
    stopwatch.wrap(runner, "execute", "execute")
    stopwatch.wrap(batch.core, "step", "step")
    encode_timed = stopwatch.timed(encode_step, "encode")
    gc.collect()
    gc.freeze()  # as a server does
    for _ in range(arguments.steps):
        encode_timed(batch.step())
    seconds = stopwatch.seconds
    parts = zip(seconds["step"], seconds["schedule"], seconds["execute"], strict=True)
    return {
        "schedule": seconds["schedule"],
        "update": [step - schedule - execute for step, schedule, execute in parts],
        "execute": seconds["execute"],
        "step": seconds["step"],
        "encode": seconds["encode"],
    }


def print_table(seconds: dict[str, list[float]]) -> None:
    """Median and 95th percentile of each part in microseconds, and the share of the loop."""
    print(f"{'':<10}{'median µs':>12}{'p95 µs':>12}")
    for name, times in seconds.items():
        p95 = statistics.quantiles(times, n=20)[-1]
        print(f"{name:<10}{statistics.median(times) * 1e6:>12.0f}{p95 * 1e6:>12.0f}")
    loop = [schedule + update for schedule, update in zip(seconds["schedule"], seconds["update"], strict=True)]
    share = sum(loop) / sum(seconds["step"])
    print(f"schedule + update: {statistics.median(loop) * 1e3:.2f} ms (median), {share:.1%} of the step wall time")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="where the time of an engine step goes")
    parser.add_argument("--model", default=FAKE_MODEL, help="as `serve` takes it (default: fake)")
    parser.add_argument("--running", type=int, default=256, help="requests that decode at once")
    parser.add_argument("--context", type=int, default=33, help="tokens that each attends to in its first step")
    parser.add_argument("--steps", type=int, default=100, help="steps to measure, at least 2")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--threads", type=int, help="threads of the model; all allowed CPUs where not set")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print_table(profile(arguments, Path(folder)))


if __name__ == "__main__":
    main()
