#!/usr/bin/env python3
"""Whether answers under a grammar are what the grammar says, with a real model at temperature 1; and what masks cost.

    scripts/check_structured_output.py --count 500 --batch 16
    scripts/check_structured_output.py --count 0 --dtype bfloat16 --threads 2     # only the cost, on a quiet machine

A core in this process generates `--count` answers in all under the 10 schemas, 5 regular expressions and 3 Lark
grammars of `tests/structured_output_cases.py`. Each answer that ends by itself is checked by `jsonschema` or `re`.
Then eight requests with and eight without a grammar are timed. Exits 1 if an answer
is not valid, or less than half of them end.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tokenizers import Tokenizer

from engine_core.model.loader import load_model_runner
from engine_core.structured_output.grammar import GrammarMatcher
from fast_inference.model_store import resolve_model
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.messages import FinishReason
from ipc.structured_output import NO_STRUCTURE, StructuredOutput
from tests.factories import CoreHarness
from tests.structured_output_cases import CASES, Case

NUM_BLOCKS = 512
NUM_WARM_UP_STEPS = 5
COST_BATCH = 8


@dataclass
class Verdict:
    """What became of the answers to one case."""

    num_answers: int = 0
    num_ended: int = 0
    """Those that ended by themselves, not by `max_tokens`."""
    problems: list[str] = field(default_factory=list)
    """Of those that ended: the invalid ones, with the reason. And whatever ended in an error."""
    longest_mask_ms: float = 0.0


class Stopwatch:
    """Durations of a method, seconds, in order."""

    def __init__(self, owner: type, method: str) -> None:
        self.durations: list[float] = []
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*arguments: Any) -> Any:
            started_at = time.perf_counter()
            try:
                return original(*arguments)
            finally:
                self.durations.append(time.perf_counter() - started_at)

        setattr(owner, method, timed)


class Generator:
    """A core with a model, and its tokenizer."""

    def __init__(self, model: str, dtype: str, threads: int, batch: int) -> None:
        self.batch = batch
        folder = resolve_model(model, lambda stage, fraction: None)
        config = ModelConfig(model=str(folder), dtype=dtype, max_model_len=1024, threads=threads)
        scheduling = {"max_num_seqs": batch, "max_num_batched_tokens": 512}
        cache = CacheConfig(block_size=32, num_blocks=NUM_BLOCKS)
        runner = load_model_runner(config, cache, SchedulerConfig(**scheduling), lambda stage: None)
        self.harness = CoreHarness(runner, block_size=32, **scheduling)
        self._tokenizer = Tokenizer.from_file(str(Path(runner.info.tokenizer_dir) / "tokenizer.json"))
        self._eos_token_ids = frozenset(runner.info.eos_token_ids)

    def add(self, prompt: str, structured_output: StructuredOutput, **params: Any) -> int:
        """Queue a chat turn; returns the id of the request."""
        text = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        fields = {"temperature": 1.0, "ignore_eos": False, "structured_output": structured_output, **params}
        return self.harness.add(self._tokenizer.encode(text).ids, **fields)

    def answer(self, request_id: int) -> str:
        """The text of an answer, EOS left out."""
        token_ids = self.harness.token_ids[request_id]
        if token_ids and token_ids[-1] in self._eos_token_ids:
            token_ids = token_ids[:-1]
        return self._tokenizer.decode(token_ids, skip_special_tokens=False)

    def generate(self, cases: Sequence[Case], seeds: Sequence[int], max_tokens: int) -> dict[str, Verdict]:
        """One answer for each seed, `batch` at a time, the cases taking turns; verdicts by name of the case."""
        verdicts = {case.name: Verdict() for case in cases}
        for start in range(0, len(seeds), self.batch):
            ids = {}
            for seed in seeds[start : start + self.batch]:
                case = cases[seed % len(cases)]
                request_id = self.add(case.prompt, case.structured_output, max_tokens=max_tokens, seed=seed)
                ids[request_id] = case
            self.harness.run()
            for request_id, case in ids.items():
                self._judge(case, request_id, verdicts[case.name])
        return verdicts

    def _judge(self, case: Case, request_id: int, verdict: Verdict) -> None:
        verdict.num_answers += 1
        finished = self.harness.finished[request_id]
        if finished.reason is FinishReason.STOP:
            verdict.num_ended += 1
            answer = self.answer(request_id)
            try:
                case.validate(answer)
            except Exception as error:  # noqa: BLE001 - whatever a check raises is the result
                verdict.problems.append(f"{answer!r}: {error}")
        elif finished.reason is not FinishReason.LENGTH:
            verdict.problems.append(f"{finished.reason.name} {finished.error_code}: {finished.error_message}")

    def step_times(self, structured_outputs: Sequence[StructuredOutput], num_steps: int) -> list[float]:
        """Seconds of each decode step of one batch; answers that end are replaced before the next step."""
        running = [self._endless(structured_output) for structured_output in structured_outputs]
        for _ in range(NUM_WARM_UP_STEPS):
            self.harness.step()
        durations = []
        while len(durations) < num_steps:
            ended = [number for number, request_id in enumerate(running) if request_id in self.harness.finished]
            for number in ended:
                running[number] = self._endless(structured_outputs[number])
            if ended:
                self.harness.step()  # their prefill
            started_at = time.perf_counter()
            self.harness.step()
            durations.append(time.perf_counter() - started_at)
        for request_id in running:
            self.harness.abort(request_id)
        return durations

    def _endless(self, structured_output: StructuredOutput) -> int:
        return self.add("Tell me something.", structured_output, max_tokens=300, ignore_eos=True)


def check(generator: Generator, count: int, max_tokens: int) -> list[Verdict]:
    """Generate under every grammar and print what came of it."""
    masks = Stopwatch(GrammarMatcher, "fill_mask")
    verdicts = []
    print(f"{'grammar':<26} answers  ended  valid  longest mask")
    for number, case in enumerate(CASES):
        masks.durations.clear()
        seeds = range(number, count, len(CASES))
        verdict = generator.generate([case], seeds, max_tokens)[case.name]
        verdict.longest_mask_ms = max(masks.durations, default=0.0) * 1e3
        num_valid = verdict.num_ended - len(verdict.problems)
        print(
            f"{case.name!r:<26} {verdict.num_answers:7} {verdict.num_ended:6} {num_valid:6} "
            f"{verdict.longest_mask_ms:9.2f} ms",
            flush=True,
        )
        for problem in verdict.problems:
            print(f"    {problem}")
        verdicts.append(verdict)
    return verdicts


def measure_cost(generator: Generator, num_steps: int) -> None:
    """Time batches of eight with different grammars against the same without."""
    masks, accepts = Stopwatch(GrammarMatcher, "fill_mask"), Stopwatch(GrammarMatcher, "accept")
    forms = [case.structured_output for case in CASES[:: max(1, len(CASES) // COST_BATCH)]][:COST_BATCH]
    without, with_masks = [], []
    for _ in range(3):  # by turns, so that a busy machine hurts both
        without += generator.step_times([NO_STRUCTURE] * COST_BATCH, num_steps // 3)
        masks.durations.clear()
        accepts.durations.clear()
        with_masks += generator.step_times(forms, num_steps // 3)
    step_ms, plain_ms = statistics.median(with_masks) * 1e3, statistics.median(without) * 1e3
    mask_ms = statistics.mean(masks.durations) * COST_BATCH * 1e3
    accept_ms = statistics.mean(accepts.durations) * COST_BATCH * 1e3
    print(f"step at batch {COST_BATCH}: {step_ms:.2f} ms with grammars, {plain_ms:.2f} ms without (medians)")
    print(f"masks {mask_ms:.2f} ms a step beside the forward pass, accepting tokens {accept_ms:.2f} ms")
    print(
        f"share: masks and accepting {(mask_ms + accept_ms) / step_ms:.1%}, on the clock {step_ms / plain_ms - 1:.1%}"
    )


def main() -> int:
    """Check, measure, print; 1 if an answer was not valid, or most did not end."""
    parser = argparse.ArgumentParser(description="structured output: validity and cost")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--count", type=int, default=500, help="answers in all")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--cost-steps", type=int, default=300, help="steps to time; 0 times nothing")
    arguments = parser.parse_args()
    generator = Generator(arguments.model, arguments.dtype, arguments.threads, arguments.batch)
    verdicts = check(generator, arguments.count, arguments.max_tokens) if arguments.count else []
    if arguments.cost_steps:
        measure_cost(generator, arguments.cost_steps)
    num_answers, num_ended = sum(v.num_answers for v in verdicts), sum(v.num_ended for v in verdicts)
    num_problems = sum(len(verdict.problems) for verdict in verdicts)
    print(f"{num_answers} answers, {num_ended} ended by themselves, {num_problems} problems")
    return 1 if num_problems or num_ended < num_answers // 2 else 0


if __name__ == "__main__":
    sys.exit(main())
