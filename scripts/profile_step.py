#!/usr/bin/env python3
"""Where the time of an engine step goes: a core in this process, with a batch of requests that only decode.

    scripts/profile_step.py --running 256                                     # the fake model: the loop alone
    scripts/profile_step.py --model smollm2-135m-instruct --running 64        # what share the loop has with a model

Times are taken around methods of the core's objects, which know nothing of it; `update` is what is left of
`EngineCore.step` (tokens, stops, outputs). `encode` makes the STEP message of the one client, which a server does on
its I/O thread. With a real model, `execute` is divided: `inputs` lays the step out, `network` gives hidden states,
`logits` are those of the rows that sample, `sampling` picks their tokens, `between` is all the rest. The share that is
printed means something with a real model only. Nothing else should run on the machine.
"""

import argparse
import gc
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine_core.admission import Admission
from engine_core.core import ClientOutputs, EngineCore
from engine_core.kv_cache.block_hash import BlockHasher
from engine_core.kv_cache.kv_cache_manager import KVCacheManager
from engine_core.outputs import ModelRunner
from engine_core.request import ClientSlot
from engine_core.request_intake import RequestIntake
from engine_core.scheduler.scheduler import Scheduler
from engine_core.stop_check import StopCheck
from engine_core.structured_output.grammar_compiler import GrammarCompiler
from fast_inference.model_store import resolve_model
from ipc import codec
from ipc.config import FAKE_MODEL, CacheConfig, FakeModelConfig, ModelConfig, SchedulerConfig
from ipc.messages import Add, ClientRole, RequestId, Step
from ipc.sampling_params import SamplingParams

BLOCK_SIZE = 32
CLIENT = ClientSlot(1)
NUM_WARM_UP_STEPS = 10
NUM_SPARE_TOKENS = 64
"""Output tokens that those may have who began to decode before the others."""


class Stopwatch:
    """Seconds that wrapped methods took, call by call."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def wrap(self, owner: object, method: str, name: str) -> None:
        """Time every call of a method of one object, as `name`."""
        setattr(owner, method, self.timed(getattr(owner, method), name))

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The same function, timed."""
        times = self.seconds.setdefault(name, [])

        def timed(*arguments: Any, **keywords: Any) -> Any:
            started_at = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                times.append(time.perf_counter() - started_at)

        return timed


def load_runner(
    arguments: argparse.Namespace, scheduling: SchedulerConfig, num_blocks: int, folder: Path
) -> ModelRunner:
    """The fake model, with its tokenizer in the folder, or a real one."""
    cache = CacheConfig(block_size=BLOCK_SIZE, num_blocks=num_blocks)
    if arguments.model == FAKE_MODEL:
        from engine_core.model.fake_runner import FakeModelRunner

        return FakeModelRunner(ModelConfig(model=FAKE_MODEL), cache, FakeModelConfig(), folder)
    from engine_core.model.loader import load_model_runner

    model_dir = resolve_model(arguments.model, lambda stage, fraction: print(stage, file=sys.stderr))
    model = ModelConfig(model=model_dir, threads=arguments.threads)
    return load_model_runner(model, cache, scheduling, lambda stage: print(stage, file=sys.stderr))


def build_core(arguments: argparse.Namespace, stopwatch: Stopwatch, folder: Path) -> EngineCore:
    """A core with all requests of the batch added, as `engine_core/process.py` builds it."""
    num_seqs = arguments.running
    max_tokens = arguments.steps + NUM_WARM_UP_STEPS + NUM_SPARE_TOKENS
    scheduling = SchedulerConfig(
        max_num_seqs=num_seqs, max_num_batched_tokens=max(2048, num_seqs), step_time_target=60.0
    )
    num_blocks = num_seqs * ((arguments.prompt + max_tokens) // BLOCK_SIZE + 2)
    runner = load_runner(arguments, scheduling, num_blocks, folder)
    hasher, admission = BlockHasher(BLOCK_SIZE), Admission(scheduling)
    kv_cache = KVCacheManager(num_blocks, hasher, enable_prefix_caching=True)
    scheduler = Scheduler(scheduling, kv_cache)
    info = runner.info
    grammars = GrammarCompiler(Path(info.tokenizer_dir), info.vocab_size, info.eos_token_ids, lambda *_: None)
    stop_check = StopCheck(info.eos_token_ids, info.max_model_len)
    core = EngineCore(runner, scheduler, kv_cache, stop_check, admission, grammars)
    intake = RequestIntake(info, hasher, admission, scheduling)
    for number in range(num_seqs):
        prompt = array("i", [(number + position) % info.vocab_size for position in range(arguments.prompt)])
        params = SamplingParams(
            max_tokens=max_tokens,
            temperature=arguments.temperature,
            top_p=arguments.top_p,
            seed=number,
            ignore_eos=True,
        )
        core.add_request(intake.accept(Add(RequestId(number + 1), prompt, params), CLIENT, ClientRole.FRONTEND))
    stopwatch.wrap(scheduler, "schedule", "schedule")
    stopwatch.wrap(runner, "execute", "execute")
    stopwatch.wrap(core, "step", "step")
    if arguments.model != FAKE_MODEL:
        watch_parts(stopwatch, runner)
    return core


def watch_parts(stopwatch: Stopwatch, runner: Any) -> None:
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


def encode(outputs: ClientOutputs) -> list[bytes]:
    """The STEP message of these outputs."""
    message = Step(1, 1, outputs.request_ids, outputs.token_ids, tuple(outputs.finished))
    return codec.encode(message, 1)


def profile(arguments: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Seconds of each part, one number for each measured step."""
    stopwatch = Stopwatch()
    core = build_core(arguments, stopwatch, folder)
    encode_timed = stopwatch.timed(encode, "encode")
    while len(core.step()[CLIENT].token_ids) < arguments.running:  # until all of them decode
        pass
    for _ in range(NUM_WARM_UP_STEPS):
        core.step()
    gc.collect()
    gc.freeze()  # as a server does
    for times in stopwatch.seconds.values():
        times.clear()
    for _ in range(arguments.steps):
        encode_timed(core.step()[CLIENT])
    seconds = stopwatch.seconds
    parts = zip(seconds["step"], seconds["schedule"], seconds["execute"], strict=True)
    return {
        "schedule": seconds["schedule"],
        "update": [step - schedule - execute for step, schedule, execute in parts],
        "execute": seconds["execute"],
        **parts_of_execute(seconds),
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
    parser.add_argument("--prompt", type=int, default=32, help="prompt tokens of each")
    parser.add_argument("--steps", type=int, default=100, help="steps to measure, at least 2")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--threads", type=int, help="threads of the model; as `serve` takes it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print_table(profile(arguments, Path(folder)))


if __name__ == "__main__":
    main()
