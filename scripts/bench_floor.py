#!/usr/bin/env python3
"""How near a decode step comes to what it must cost, and where the difference goes.

    scripts/bench_floor.py                                        # SmolLM2, 1x150, 8x150, 32x150, 64x150, 32x1000
    scripts/bench_floor.py 1x150 32x1000 --quantization int8 --rounds 20 --json floor.json

The floor of a step of BATCH requests with CONTEXT tokens each: oneDNN's packed linear layers in step order, then the
head, and the time that reading keys and values takes at the memory bandwidth measured beside it. The step is one of
`EngineCore.step`, with everything but the message to the clients, which the core's I/O thread makes. All of it is
measured in one process in turn, round after round and every other round backwards, so that what else happens on the
machine meets all of it; medians over the rounds are printed, and of the ratio its range.

Inside of the compiled step, the kernels time their phases themselves: linear layers, attention, and the rest (norms,
rotary embedding, changes of form).
With int8 weights the floor multiplies int8 by int8. Nothing else should run on the machine.
"""

import argparse
import gc
import json
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from engine_core.model.decoder.native_network import NativeDecoderNetwork
from engine_core.model.kernels.bindings import PHASES
from engine_core.model.model_runner import TorchModelRunner
from fast_inference.bench.decode_batch import DecodeBatch, blocks_of, encode_step, load_runner
from fast_inference.bench.step_floor import LinearFloor, MemoryReader, kv_bytes
from fast_inference.bench.stopwatch import Stopwatch
from fast_inference.model_store import resolve_model
from ipc.config import ModelConfig
from ipc.errors import ConfigError

DEFAULT_PAIRS = ((1, 150), (8, 150), (32, 150), (64, 150), (32, 1000))
GOALS = {1: 1.15, 32: 1.4}
"""Of the step in relation to the floor, by batch."""
NUM_PASSES = 4
"""Of each thing in each round, after one that does not count."""
FLOOR_PARTS = ("linear layers", "head", "keys and values")
STEP_PARTS = (*PHASES, "head", "sampling", "scheduling and update", "inputs and dispatch in Python")
MESSAGE = "STEP message (I/O thread)"


@dataclass
class Result:
    """One batch at one context; all times in milliseconds, one for each round."""

    num_seqs: int
    context: int
    kv_bytes: int
    floor: dict[str, list[float]] = field(default_factory=dict)
    step: dict[str, list[float]] = field(default_factory=dict)
    message: list[float] = field(default_factory=list)
    bandwidth: list[float] = field(default_factory=list)
    """Bytes per second."""

    @property
    def ratios(self) -> list[float]:
        """Of each round, the step in relation to the floor."""
        return [step / floor for step, floor in zip(totals(self.step), totals(self.floor), strict=True)]

    def add(self, times: dict[str, float]) -> None:
        """Take in what a round measured, in seconds."""
        self.bandwidth.append(MemoryReader.num_bytes / times["read"])
        floor = (times["floor layers"], times["floor head"], self.kv_bytes / self.bandwidth[-1])
        step = (
            *(times[phase] for phase in PHASES),
            times["head"],
            times["sample"] - times["head"],
            times["step"] - times["execute"],
            times["execute"] - sum(times[phase] for phase in PHASES) - times["sample"],
        )
        for parts, names, values in ((self.floor, FLOOR_PARTS, floor), (self.step, STEP_PARTS, step)):
            for name, seconds in zip(names, values, strict=True):
                parts.setdefault(name, []).append(seconds * 1e3)
        self.message.append(times["encode"] * 1e3)

    def as_json(self) -> dict[str, Any]:
        """Medians and the ratio of each round."""
        return {
            "batch": self.num_seqs,
            "context": self.context,
            "read_bytes_per_s": statistics.median(self.bandwidth),
            "floor_ms": statistics.median(totals(self.floor)),
            "floor_parts_ms": {name: statistics.median(values) for name, values in self.floor.items()},
            "step_ms": statistics.median(totals(self.step)),
            "step_parts_ms": {name: statistics.median(values) for name, values in self.step.items()},
            "step_message_ms": statistics.median(self.message),
            "ratio": statistics.median(self.ratios),
            "ratios": self.ratios,
            "goal": GOALS.get(self.num_seqs),
        }


def totals(parts: dict[str, list[float]]) -> list[float]:
    """Of each round, all parts together."""
    return [sum(values) for values in zip(*parts.values(), strict=True)]


class Meter:
    """Measures the parts of the steps of one runner, whose methods it wraps for good."""

    def __init__(self, runner: TorchModelRunner, network: NativeDecoderNetwork, reader: MemoryReader) -> None:
        self._runner, self._network, self._reader = runner, network, reader
        self._kv_tensors = runner._kv_tensors
        self._watch = Stopwatch()
        self._watch.wrap(runner, "execute", "execute")
        self._watch.wrap(runner._sampler, "sample", "sample")
        self._watch.wrap(network, "logits", "head")
        self._phase_seconds = network.measure_phases()

    def measure(self, num_seqs: int, context: int, floor: LinearFloor, num_rounds: int) -> Result:
        """All rounds; the contexts of the steps are in the mean the one that was asked for."""
        num_steps = num_rounds * (1 + NUM_PASSES)
        batch = DecodeBatch(self._runner, num_seqs, max(2, context - num_steps // 2), num_steps)
        self._watch.wrap(batch.core, "step", "step")
        encode = self._watch.timed(encode_step, "encode")
        turns: list[Callable[[], dict[str, float]]] = [
            lambda: {"read": self._seconds(self._reader.read)},
            lambda: {"floor layers": self._seconds(floor.run_layers)},
            lambda: {"floor head": self._seconds(floor.run_head)},
            lambda: self._parts(lambda: encode(batch.step())),
        ]
        result = Result(num_seqs, context, kv_bytes(self._network._config, self._kv_tensors.dtype, num_seqs, context))
        gc.collect()
        gc.freeze()  # as a server does
        for round_number in range(num_rounds):
            times: dict[str, float] = {}
            for turn in turns[:: -1 if round_number % 2 else 1]:
                times |= turn()
            result.add(times)
        gc.unfreeze()
        batch.close()
        return result

    def _parts(self, run: Callable[[], object]) -> dict[str, float]:
        """Seconds of each wrapped method that one pass calls, and of the kernels' phases, in the mean of several."""
        run()
        self._watch.clear()
        self._phase_seconds[:] = 0
        for _ in range(NUM_PASSES):
            run()
        sums = {name: sum(times) for name, times in self._watch.seconds.items()}
        sums |= zip(PHASES, self._phase_seconds.tolist(), strict=True)
        return {name: seconds / NUM_PASSES for name, seconds in sums.items() if seconds}

    def _seconds(self, run: Callable[[], object]) -> float:
        """Of one pass, in the mean of several."""
        return self._parts(self._watch.timed(run, "pass"))["pass"]


def print_table(results: list[Result]) -> None:
    """A column for each batch and context."""
    rows: list[tuple[str, list[str]]] = [("ms", [f"{r.num_seqs} x {r.context}" for r in results])]
    rows.append(("floor", [shown(totals(r.floor)) for r in results]))
    rows += [(f"  {name}", [shown(r.floor[name]) for r in results]) for name in FLOOR_PARTS]
    rows.append(("step", [shown(totals(r.step)) for r in results]))
    rows += [(f"  {name}", [shown(r.step[name]) for r in results]) for name in STEP_PARTS]
    rows.append((f"  beside it: {MESSAGE}", [shown(r.message) for r in results]))
    rows.append(("step / floor", [shown(r.ratios) for r in results]))
    rows.append(("  of one round", [f"{min(r.ratios):.2f}-{max(r.ratios):.2f}" for r in results]))
    goals = [GOALS.get(r.num_seqs) for r in results]
    rows.append(("  goal, at most", ["-" if goal is None else f"{goal:.2f}" for goal in goals]))
    widths = [max(9, *(len(cells[column]) for _, cells in rows)) for column in range(len(results))]
    for label, cells in rows:
        print(f"{label:<40}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))
    bandwidth = statistics.median(value for result in results for value in result.bandwidth)
    print(f"memory is read at {bandwidth / 1e9:.1f} GB/s by {torch.get_num_threads()} threads")


def shown(values: list[float]) -> str:
    """The median."""
    return f"{statistics.median(values):.2f}"


def parse_pair(text: str) -> tuple[int, int]:
    """`32x150` as two numbers."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or int(match[1]) < 1 or int(match[2]) < 2:
        raise argparse.ArgumentTypeError(f"must be BATCHxCONTEXT with a context of 2 or more, not {text!r}")
    return int(match[1]), int(match[2])


def load(arguments: argparse.Namespace, pairs: list[tuple[int, int]]) -> tuple[TorchModelRunner, NativeDecoderNetwork]:
    """The model, with room for the largest batch; ends the program where it does not run on the kernels."""
    tell: Callable[[str], None] = lambda stage: print(stage, file=sys.stderr)  # noqa: E731
    num_steps = arguments.rounds * (1 + NUM_PASSES)
    try:
        settings = {"dtype": arguments.dtype, "quantization": arguments.quantization, "threads": arguments.threads}
        model = resolve_model(arguments.model, lambda stage, fraction: tell(stage))
        runner = load_runner(
            ModelConfig.model_validate({"model": model, **settings}),
            max(num_seqs for num_seqs, _ in pairs),
            max(blocks_of(num_seqs, context, num_steps) for num_seqs, context in pairs),
            tell,
        )
    except ConfigError as error:
        sys.exit(f"error: {error.message}")
    network = runner._network
    if not isinstance(network, NativeDecoderNetwork):
        sys.exit(f"error: {arguments.model} does not run on the CPU kernels, whose steps are measured here")
    return runner, network


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="how near a decode step comes to what it must cost")
    parser.add_argument("pairs", nargs="*", type=parse_pair, metavar="BATCHxCONTEXT", help="such as 32x150")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="as `serve` takes it")
    parser.add_argument("--quantization", choices=("none", "int8", "int8-dynamic"), default="none")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--threads", type=int, help="threads of the model; all allowed CPUs where not set")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write medians and ratios")
    arguments = parser.parse_args()
    pairs = arguments.pairs or list(DEFAULT_PAIRS)
    runner, network = load(arguments, pairs)
    dtype = runner._kv_tensors.dtype
    meter, results = Meter(runner, network, MemoryReader()), []
    with torch.inference_mode():
        for num_seqs, context in pairs:
            floor = LinearFloor(network._config, dtype, arguments.quantization, num_seqs)
            results.append(meter.measure(num_seqs, context, floor, arguments.rounds))
    print_table(results)
    if arguments.json:
        settings = {"model": arguments.model, "dtype": str(dtype), "quantization": arguments.quantization}
        text = json.dumps({**settings, "results": [result.as_json() for result in results]}, indent=2)
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
