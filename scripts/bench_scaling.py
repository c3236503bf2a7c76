#!/usr/bin/env python3
"""How the time of a decode step grows with the batch and with the context.

    scripts/bench_scaling.py --plot scaling.png                      # SmolLM2: 1 to 128 requests, 100 to 4,000 tokens
    scripts/bench_scaling.py --batches 1,2,4 --contexts 100,1000 --rounds 5 --json scaling.json

Each step is a whole one of `EngineCore.step`; a prompt is not computed (`fast_inference/bench/decode_batch.py`), so the
context is there at once. All pairs are measured in turn, round after round and every other round backwards; the median
of the rounds is printed, with what it is in relation to half of the batch, or of the context. Then a + b * batch +
c * batch * context is fitted by least squares of the relative errors: what a step costs whoever is in it, each request,
and each token of context. Pairs that memory or the model's limit does not allow are named and left out. Nothing else
should run on the machine.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from engine_core.memory_plan import plan_model
from fast_inference.bench.decode_batch import BLOCK_SIZE, DecodeBatch, blocks_of, load_runner
from fast_inference.bench.plot import require_matplotlib
from fast_inference.model_store import resolve_model
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.errors import ConfigError

BATCHES = [1, 2, 4, 8, 16, 32, 64, 128]
CONTEXTS = [100, 250, 500, 1000, 2000, 4000]
GOAL = 2.2
"""Of a step in relation to one of half the batch, or of half the context: at most."""
NUM_STEPS = 4
"""Of each pair in each round, after one that does not count."""
MEMORY_SHARE = 0.9
"""Of what is left after the weights, that the KV cache may take."""
Pair = tuple[int, int]
"""Batch and context."""
Times = dict[Pair, float]
"""Milliseconds of a step."""


@dataclass(frozen=True)
class Fit:
    """Milliseconds of a step: `fixed + per_request * batch + per_token * batch * context`."""

    fixed: float
    per_request: float
    per_token: float
    largest_error: float
    """Of the fitted times, in relation to the measured ones."""

    @classmethod
    def of(cls, times: Times) -> "Fit":
        """Least squares of the relative errors, so that short steps count as much as long ones."""
        measured = np.array(list(times.values()))
        terms = np.array([(1.0, batch, batch * context) for batch, context in times])
        factors, *_ = np.linalg.lstsq(terms / measured[:, None], np.ones(len(measured)), rcond=None)
        errors = terms @ factors / measured - 1.0
        return cls(*factors.tolist(), float(np.abs(errors).max()))

    def at(self, batch: int, context: int) -> float:
        """The fitted time."""
        return self.fixed + self.per_request * batch + self.per_token * batch * context


def choose_pairs(arguments: argparse.Namespace, model: ModelConfig) -> list[Pair]:
    """Those that fit."""
    limits = {"max_num_seqs": max(arguments.batches), "max_num_batched_tokens": max(2048, *arguments.batches)}
    cache = CacheConfig.model_validate({"block_size": BLOCK_SIZE})
    plan = plan_model(model, cache, SchedulerConfig.model_validate(limits))
    left_bytes = plan.memory.available_bytes - plan.memory.weights_bytes - plan.memory.workspace_bytes
    num_blocks = int(MEMORY_SHARE * left_bytes) // (BLOCK_SIZE * plan.memory.kv_bytes_per_token)
    longest = plan.shape.max_model_len or max(arguments.contexts) + NUM_STEPS + 1
    pairs = []
    for batch in arguments.batches:
        for context in arguments.contexts:
            needed = blocks_of(batch, context, NUM_STEPS + 1)
            if needed <= num_blocks and context + NUM_STEPS + 1 < longest:
                pairs.append((batch, context))
            else:
                print(f"left out: {batch} x {context} ({needed} blocks, {num_blocks} fit)", file=sys.stderr)
    return pairs


def measure(arguments: argparse.Namespace) -> Times:
    """Medians of all pairs."""
    settings = {"dtype": arguments.dtype, "quantization": arguments.quantization, "threads": arguments.threads}
    folder = resolve_model(arguments.model, lambda stage, fraction: print(stage, file=sys.stderr))
    model = ModelConfig.model_validate({"model": folder, **settings})
    pairs = choose_pairs(arguments, model)
    if not pairs:
        raise ConfigError("no batch fits: use smaller --batches or --contexts")
    num_blocks = max(blocks_of(batch, context, NUM_STEPS + 1) for batch, context in pairs)
    runner = load_runner(model, max(arguments.batches), num_blocks, lambda stage: print(stage, file=sys.stderr))
    seconds: dict[Pair, list[float]] = {pair: [] for pair in pairs}
    for round_number in range(arguments.rounds):
        for batch, context in pairs[:: -1 if round_number % 2 else 1]:
            steps = DecodeBatch(runner, batch, context, NUM_STEPS + 1)
            gc.collect()
            steps.step()
            began_at = time.perf_counter()
            for _ in range(NUM_STEPS):
                steps.step()
            seconds[batch, context].append((time.perf_counter() - began_at) / NUM_STEPS)
            steps.close()
        print(f"round {round_number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    return {pair: statistics.median(times) * 1e3 for pair, times in seconds.items()}


def doublings(times: Times) -> dict[tuple[Pair, Pair], float]:
    """Of each pair and the one with twice its batch or context, the second time in relation to the first."""
    ratios = {}
    for (batch, context), milliseconds in times.items():
        for twice in ((2 * batch, context), (batch, 2 * context)):
            if twice in times:
                ratios[(batch, context), twice] = times[twice] / milliseconds
    return ratios


def print_times(times: Times) -> None:
    """A row for each batch, a column for each context; behind each time, that in relation to half of the batch."""
    batches, contexts = (sorted({pair[index] for pair in times}) for index in (0, 1))
    print(f"{'ms':>6}" + "".join(f"{context:>18}" for context in contexts))
    for batch in batches:
        cells = []
        for context in contexts:
            milliseconds, half = times.get((batch, context)), times.get((batch // 2, context))
            if milliseconds is None:
                cells.append("-")
            elif batch % 2 or half is None:
                cells.append(f"{milliseconds:.2f}        ")
            else:
                cells.append(f"{milliseconds:.2f} ({milliseconds / half:.2f}x)")
        print(f"{batch:>6}" + "".join(f"{cell:>18}" for cell in cells))


def print_summary(times: Times, fit: Fit) -> None:
    """The fit, and the largest ratio of each kind of doubling."""
    print(
        f"a step takes {fit.fixed:.3f} ms + {fit.per_request:.4f} ms * batch + {fit.per_token * 1e3:.4f} us * batch * "
        f"context (largest error {fit.largest_error:.0%})"
    )
    ratios = doublings(times)
    for kind, index in (("batch", 0), ("context", 1)):
        of_kind = {pairs: ratio for pairs, ratio in ratios.items() if pairs[0][index] != pairs[1][index]}
        if of_kind:
            (before, after), largest = max(of_kind.items(), key=lambda item: item[1])
            print(
                f"twice the {kind}: at most {largest:.2f}x, from {before[0]} x {before[1]} to {after[0]} x {after[1]}; "
                f"goal at most {GOAL:.2f}x"
            )


def draw(times: Times, fit: Fit, path: Path) -> None:
    """Measured times as points, the fit as lines: over the batch, and over the context."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 4.5), layout="constrained")
    for index, (axes, label) in enumerate(zip(figure.subplots(1, 2), ("batch", "context"), strict=True)):
        for number, fixed in enumerate(sorted({pair[1 - index] for pair in times})):
            points = sorted((pair[index], ms) for pair, ms in times.items() if pair[1 - index] == fixed)
            values = [value for value, _ in points]
            fitted = [fit.at(*((value, fixed) if index == 0 else (fixed, value))) for value in values]
            axes.plot(values, [ms for _, ms in points], "o", color=f"C{number}", label=f"{fixed}")
            axes.plot(values, fitted, "-", color=f"C{number}", alpha=0.6)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(label)
        axes.set_ylabel("step, ms")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", title=("context", "batch")[index])
    figure.savefig(path, dpi=120, format="png")


def parse_numbers(text: str) -> list[int]:
    """`1,2,4` in rising order."""
    numbers = sorted({int(part) for part in text.split(",")})
    if numbers[0] < 1:
        raise ValueError
    return numbers


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description="how the time of a decode step grows")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="as `serve` takes it")
    parser.add_argument("--quantization", choices=("none", "int8", "int8-dynamic"), default="none")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--threads", type=int, help="threads of the model; all allowed CPUs where not set")
    parser.add_argument("--batches", type=parse_numbers, default=BATCHES, metavar="N,…")
    parser.add_argument("--contexts", type=parse_numbers, default=CONTEXTS, metavar="N,…")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write times, fit and ratios")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw times and fit")
    arguments = parser.parse_args()
    try:
        if arguments.plot:
            require_matplotlib()
        times = measure(arguments)
    except ConfigError as error:
        sys.exit(f"error: {error.message}")
    fit = Fit.of(times)
    print_times(times)
    print_summary(times, fit)
    if arguments.json:
        rows = [{"batch": batch, "context": context, "step_ms": ms} for (batch, context), ms in times.items()]
        ratios = [{"from": before, "to": after, "ratio": ratio} for (before, after), ratio in doublings(times).items()]
        report = {"model": arguments.model, "steps": rows, "fit": vars(fit), "doublings": ratios}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.plot:
        draw(times, fit, arguments.plot)


if __name__ == "__main__":
    main()
