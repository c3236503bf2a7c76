#!/usr/bin/env python3
"""Where the time of an engine step goes: a core in this process, with a batch of requests that only decode.

    scripts/profile_step.py --running 256                                     # the fake model: the loop alone
    scripts/profile_step.py --model smollm2-135m-instruct --running 64        # what share the loop has with a model

Times are taken around methods of the core's objects, which know nothing of it; `update` is what is left of
`EngineCore.step` (tokens, stops, outputs). `encode` makes the STEP message of the one client, which a server does on
its I/O thread. With a real model, `execute` is divided: `inputs` lays the step out, `network` gives hidden states,
`logits` are those of the rows that sample, `sampling` picks their tokens, `between` is all the rest. The share that is
printed means something with a real model only. Nothing else should run on the machine; `cpu`, the CPU time of the main
thread in a step, is all that it computes with `--threads 1`, and hardly depends on what else runs.
"""

import argparse
import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine_core.model.model_runner import TorchModelRunner
from engine_core.outputs import ModelRunner
from fast_inference.bench.decode_batch import BLOCK_SIZE, DecodeBatch, blocks_of, encode_step, load_runner
from fast_inference.bench.stopwatch import Stopwatch
from fast_inference.model_store import resolve_model
from ipc.config import FAKE_MODEL, CacheConfig, FakeModelConfig, ModelConfig
from ipc.sampling_params import SamplingParams

NUM_WARM_UP_STEPS = 10


def make_runner(arguments: argparse.Namespace, folder: Path) -> ModelRunner:
    """The fake model, with its tokenizer in the folder, or a real one."""
    num_blocks = blocks_of(arguments.running, arguments.context, NUM_WARM_UP_STEPS + arguments.steps)
    if arguments.model == FAKE_MODEL:
        from engine_core.model.fake_runner import FakeModelRunner

        cache = CacheConfig(block_size=BLOCK_SIZE, num_blocks=num_blocks)
        return FakeModelRunner(ModelConfig(model=FAKE_MODEL), cache, FakeModelConfig(), folder)
    model_dir = resolve_model(arguments.model, lambda stage, fraction: print(stage, file=sys.stderr))
    model = ModelConfig(model=model_dir, threads=arguments.threads, lora=tuple(arguments.lora))
    return load_runner(model, arguments.running, num_blocks, lambda stage: print(stage, file=sys.stderr))


def watch_parts(stopwatch: Stopwatch, runner: TorchModelRunner) -> None:
    """Time what a `TorchModelRunner` calls in each step."""
    stopwatch.wrap(runner._batch, "build", "inputs")
    stopwatch.wrap(runner._network, "hidden_states", "network")
    stopwatch.wrap(runner._network, "logits", "logits")
    stopwatch.wrap(runner._sampler, "sample", "sampling with logits")


def parts_of_execute(seconds: dict[str, list[float]]) -> dict[str, list[float]]:
    """The times of `watch_parts` so that they add up to `execute`."""
    if "inputs" not in seconds:
        return {}
    inputs, network, logits, sampling = (
        seconds[name] for name in ("inputs", "network", "logits", "sampling with logits")
    )
    return {
        "inputs": inputs,
        "network": network,
        "logits": logits,
        "sampling": [both - part for both, part in zip(sampling, logits, strict=True)],
        "between": [
            whole - sum(rest) for whole, *rest in zip(seconds["execute"], inputs, network, sampling, strict=True)
        ],
    }


def profile(arguments: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Seconds of each part, one number for each measured step."""
    runner, stopwatch = make_runner(arguments, folder), Stopwatch()
    num_steps = NUM_WARM_UP_STEPS + arguments.steps
    params = SamplingParams(1, temperature=arguments.temperature, top_p=arguments.top_p)
    adapters = list(runner.info.adapters) or [""]
    batch = DecodeBatch(runner, arguments.running, arguments.context, num_steps, params, adapters)
    for _ in range(NUM_WARM_UP_STEPS):
        batch.step()
    stopwatch.wrap(batch.scheduler, "schedule", "schedule")
    stopwatch.wrap(runner, "execute", "execute")
    stopwatch.wrap(batch.core, "step", "step")
    if isinstance(runner, TorchModelRunner):
        watch_parts(stopwatch, runner)
    encode_timed = stopwatch.timed(encode_step, "encode")
    gc.collect()
    gc.freeze()  # as a server does
    cpu_seconds: list[float] = []
    for _ in range(arguments.steps):
        began = time.thread_time()
        outputs = batch.step()
        cpu_seconds.append(time.thread_time() - began)
        encode_timed(outputs)
    seconds = stopwatch.seconds
    parts = zip(seconds["step"], seconds["schedule"], seconds["execute"], strict=True)
    return {
        "schedule": seconds["schedule"],
        "update": [step - schedule - execute for step, schedule, execute in parts],
        "execute": seconds["execute"],
        **parts_of_execute(seconds),
        "step": seconds["step"],
        "cpu": cpu_seconds,
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
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--threads", type=int, help="threads of the model; as `serve` takes it")
    parser.add_argument("--lora", action="append", default=[], help="NAME=PATH; requests have these adapters in turn")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print_table(profile(arguments, Path(folder)))


if __name__ == "__main__":
    main()
