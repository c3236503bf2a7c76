#!/usr/bin/env python3
"""How near a decode step comes to what it must cost, and where the difference goes.

    scripts/bench_floor.py                                        # SmolLM2, 1x150, 8x150, 32x150, 64x150, 32x1000
    scripts/bench_floor.py 1x150 32x1000 --quantization int8 --rounds 20 --json floor.json

The floor of a step of BATCH requests with CONTEXT tokens each: oneDNN's packed linear layers in step order, then the
head, and the time that reading keys and values takes at the memory bandwidth measured beside it. The step is one of
`EngineCore.step`, with everything but the message to the clients, which the core's I/O thread makes. All of it is
measured in one process in turn, round after round and every other round backwards, so that what else happens on the
machine meets all of it; medians over the rounds are printed, and of the ratio its range.

Inside of the compiled step: the linear layers are timed alone, in step order, with the conversion of their inputs and
without the cost of calls; attention is what steps at this context take longer than at a context of one token; the rest
(norms, rotary embedding, activation) is what is left. A part that takes next to nothing may come out below zero.
With int8 weights the floor multiplies int8 by int8. Nothing else should run on the machine.
"""

import argparse
import copy
import gc
import json
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from engine_core.model.attention import RequestSpan, build_attention_metadata
from engine_core.model.decoder.native_network import NativeDecoderNetwork
from engine_core.model.kernels.bindings import stride_of
from engine_core.model.kernels.packing import PackedLinear, pack_linear
from engine_core.model.model_runner import TorchModelRunner
from engine_core.model.network import flat_batch
from fast_inference.bench.decode_batch import BLOCK_SIZE, DecodeBatch, blocks_of, encode_step, load_runner
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
STEP_PARTS = (
    *("linear layers", "attention", "norms and the rest", "head", "sampling"),
    *("scheduling and update", "inputs and dispatch in Python"),
)
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
        calls = times["linear calls"] - times["empty calls"]
        attention = times["compiled step"] - times["compiled step without context"]
        floor = (times["floor layers"], times["floor head"], self.kv_bytes / self.bandwidth[-1])
        step = (
            calls,
            attention,
            times["compiled"] - calls - attention,
            times["head"],
            times["sample"] - times["head"],
            times["step"] - times["execute"],
            times["execute"] - times["compiled"] - times["sample"],
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
        self._watch.wrap(network._library, "decoder_step", "compiled")
        self._watch.wrap(network._library, "linear_rows", "linear")

    def measure(self, num_seqs: int, context: int, floor: LinearFloor, num_rounds: int) -> Result:
        """All rounds; the contexts of the steps are in the mean the one that was asked for."""
        num_steps = num_rounds * (1 + NUM_PASSES)
        batch = DecodeBatch(self._runner, num_seqs, max(2, context - num_steps // 2), num_steps)
        self._watch.wrap(batch.core, "step", "step")
        encode = self._watch.timed(encode_step, "encode")
        linears = self._linears()
        empties = [pack_linear(torch.zeros(32, 32), linear.format) for linear in linears]
        turns: list[Callable[[], dict[str, float]]] = [
            lambda: {"read": self._seconds(self._reader.read)},
            lambda: {"floor layers": self._seconds(floor.run_layers)},
            lambda: {"floor head": self._seconds(floor.run_head)},
            lambda: self._parts(lambda: encode(batch.step())),
            self._turn("linear calls", "linear", LinearsAlone(self._network, linears, num_seqs).run),
            self._turn("empty calls", "linear", LinearsAlone(self._network, empties, num_seqs).run),
            self._turn("compiled step", "compiled", self._layers_at(num_seqs, context)),
            self._turn("compiled step without context", "compiled", self._layers_at(num_seqs, 1)),
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

    def _linears(self) -> list[PackedLinear]:
        """Of all layers, in the order of a step."""
        layers = self._network._layers
        return [linear for layer in layers for linear in (layer.qkv, layer.output, layer.gate_up, layer.down)]

    def _layers_at(self, num_seqs: int, context: int) -> Callable[[], object]:
        """All layers of a step, without the engine around them."""
        num_blocks = -(-context // BLOCK_SIZE)
        blocks = np.arange(num_seqs * num_blocks, dtype=np.int32).reshape(num_seqs, num_blocks)
        spans = [RequestSpan(row, 1, context - 1, blocks[row], BLOCK_SIZE) for row in range(num_seqs)]
        metadata = build_attention_metadata(spans, self._kv_tensors)
        ids, positions = np.zeros(num_seqs, dtype=np.int64), np.full(num_seqs, context - 1, dtype=np.int64)
        return lambda: flat_batch(self._network, ids, positions, metadata, self._kv_tensors)

    def _turn(self, name: str, wrapped: str, run: Callable[[], object]) -> Callable[[], dict[str, float]]:
        """Measures what one wrapped method takes of `run`, and calls it `name`."""
        return lambda: {name: self._parts(run)[wrapped]}

    def _parts(self, run: Callable[[], object]) -> dict[str, float]:
        """Seconds of each wrapped method that one pass calls, in the mean of several passes."""
        run()
        self._watch.clear()
        for _ in range(NUM_PASSES):
            run()
        return {name: sum(times) / NUM_PASSES for name, times in self._watch.seconds.items() if times}

    def _seconds(self, run: Callable[[], object]) -> float:
        """Of one pass, in the mean of several."""
        return self._parts(self._watch.timed(run, "pass"))["pass"]


class LinearsAlone:
    """Linear layers of a network, each computed by a copy of it that has the layer as its head.

    So the kernels are called as the network calls them.
    """

    def __init__(self, network: NativeDecoderNetwork, linears: list[PackedLinear], num_rows: int) -> None:
        out = torch.empty(num_rows, max(stride_of(linear.num_columns) for linear in linears))
        self._parts: list[tuple[NativeDecoderNetwork, torch.Tensor]] = []
        for linear in linears:
            alone = copy.copy(network)
            alone._head = linear
            alone._config = replace(network._config, vocab_size=linear.num_columns, logits_softcap=None)
            alone._logits = out.view(-1)[: num_rows * stride_of(linear.num_columns)].view(num_rows, -1)
            self._parts.append((alone, torch.randn(num_rows, linear.num_inputs)))

    def run(self) -> None:
        """One layer after the other."""
        for network, rows in self._parts:
            network.logits(rows)


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
