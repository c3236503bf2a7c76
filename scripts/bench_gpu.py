#!/usr/bin/env python3
"""Times steps of the model runner on a GPU, with CUDA graphs and without, and prefills; no server, no scheduler.

    scripts/bench_gpu.py MODEL_FOLDER [--batches 1 8 32 64 256] [--contexts 200 1000] [--steps 50]

A line for each batch and context: milliseconds of a decode step with graphs and without (median, wall clock, greedy
tokens on the host), and the floor: the bytes of weights and of keys and values over the rate of a copy within the
device, measured first.
"""

import argparse
import logging
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from engine_core.memory_plan import read_model_shape
from engine_core.model.loader import load_model_runner
from engine_core.model.model_runner import TorchModelRunner
from engine_core.outputs import NewRequestData, RequestKey, ScheduledRequest, SchedulerOutput
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.messages import Task
from ipc.sampling_params import SamplingParams

BLOCK_SIZE = 32
GREEDY = SamplingParams(max_tokens=100_000, temperature=0.0, ignore_eos=True)
DRAWN = SamplingParams(max_tokens=100_000, temperature=0.8, top_p=0.95, seed=1, ignore_eos=True)


class Requests:
    """A batch of requests of one runner, whose blocks are given out in a scattered order."""

    def __init__(self, runner: TorchModelRunner, vocab_size: int, max_tokens_per_step: int) -> None:
        self._runner = runner
        self._vocab_size = vocab_size
        self._max_tokens_per_step = max_tokens_per_step
        self._free = np.random.default_rng(0).permutation(runner.info.num_blocks).tolist()
        self._num_computed: dict[RequestKey, int] = {}
        self._blocks: dict[RequestKey, int] = {}

    def prefill(self, count: int, num_tokens: int, params: SamplingParams) -> float:
        """Compute `count` prompts of random tokens; returns seconds."""
        keys = [RequestKey(len(self._num_computed) + index) for index in range(count)]
        tokens = np.random.default_rng(1).integers(3, self._vocab_size, (count, num_tokens)).tolist()
        per_step = max(1, self._max_tokens_per_step // num_tokens)
        started = time.perf_counter()
        for first in range(0, count, per_step):
            group = range(first, min(first + per_step, count))
            new = [
                NewRequestData(keys[index], tuple(tokens[index]), num_tokens, params, Task.GENERATE, ())
                for index in group
            ]
            self._execute([self._scheduled(keys[index], num_tokens) for index in group], tuple(new))
        return time.perf_counter() - started

    def decode(self) -> float:
        """One token for all; returns seconds."""
        scheduled = [self._scheduled(key, 1) for key in self._num_computed]
        started = time.perf_counter()
        self._execute(scheduled)
        return time.perf_counter() - started

    def drop(self) -> None:
        """Forget all requests."""
        self._runner.execute(SchedulerOutput(0, (), (), tuple(self._num_computed)))
        self._num_computed.clear()
        self._blocks.clear()
        self._free = np.random.default_rng(0).permutation(self._runner.info.num_blocks).tolist()

    def _scheduled(self, key: RequestKey, num_tokens: int) -> ScheduledRequest:
        start = self._num_computed.get(key, 0)
        num_blocks = -(-(start + num_tokens) // BLOCK_SIZE)
        new_blocks = tuple(self._free.pop() for _ in range(num_blocks - self._blocks.get(key, 0)))
        self._num_computed[key], self._blocks[key] = start + num_tokens, num_blocks
        return ScheduledRequest(key, start, num_tokens, new_blocks, True)

    def _execute(self, scheduled: list[ScheduledRequest], new: tuple[NewRequestData, ...] = ()) -> None:
        output = self._runner.execute(SchedulerOutput(0, new, tuple(scheduled)))
        assert len(output.sampled_token_ids) == len(scheduled), output.failures


def copy_bytes_per_s() -> float:
    """Bytes read and written by a large copy within the device."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    times = []
    for _ in range(8):
        torch.cuda.synchronize()
        started = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * source.numel() / min(times)


def main() -> None:
    """Entry of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64, 256])
    parser.add_argument("--contexts", type=int, nargs="+", default=[200, 1000])
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    rate = copy_bytes_per_s()
    torch.cuda.empty_cache()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {rate / 1e12:.2f} TB/s")

    shape = read_model_shape(arguments.model)
    max_batch, max_tokens = max(arguments.batches), 8192
    started = time.perf_counter()
    runner = load_model_runner(
        ModelConfig(model=str(arguments.model), device="cuda"),
        CacheConfig(block_size=BLOCK_SIZE),
        SchedulerConfig(max_num_seqs=max_batch, max_num_batched_tokens=max_tokens),
        lambda stage: print(f"  {time.perf_counter() - started:5.1f} s {stage}"),
    )
    print(f"loaded in {time.perf_counter() - started:.1f} s, {torch.cuda.memory_allocated() / 2**30:.1f} GiB allocated")
    requests = Requests(runner, shape.vocab_size, max_tokens)
    requests.prefill(4, 100, GREEDY)
    requests.drop()
    for num_tokens in (100, 1000, 8000):
        count = max_tokens // num_tokens
        seconds = []
        for _ in range(4):
            seconds.append(requests.prefill(count, num_tokens, GREEDY))
            requests.drop()
        print(f"prefill of {count} x {num_tokens} tokens: {count * num_tokens / min(seconds):,.0f} tokens/s")

    print("| batch | context | graphs | eager | drawn, graphs | floor | (ms per decode step)")
    kv_bytes = shape.kv_bytes_per_token(2)
    graphs = runner._decode_graphs
    for context in arguments.contexts:
        for batch in arguments.batches:
            columns = []
            for params, used in ((GREEDY, graphs), (GREEDY, None), (DRAWN, graphs)):
                runner._decode_graphs = used
                requests.prefill(batch, context, params)
                times = [requests.decode() for _ in range(arguments.steps)]
                columns.append(1000 * statistics.median(times))
                requests.drop()
            floor = 1000 * (2 * shape.num_parameters + batch * (context + arguments.steps / 2) * kv_bytes) / rate
            cells = " | ".join(f"{value:.3f}" for value in (*columns, floor))
            print(f"| {batch} | {context} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
