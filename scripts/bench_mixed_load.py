#!/usr/bin/env python3
"""What running streams feel of long prompts that come beside them.

    scripts/bench_mixed_load.py                                            # 8 streams, a prompt of 1,500 words a second
    scripts/bench_mixed_load.py --rounds 5 -- --step-time-target 0.05      # flags of `fast-inference serve` after --
    scripts/bench_mixed_load.py --url http://127.0.0.1:8000

In each round the streams run twice: alone, then with a long prompt coming each `--interval` seconds for as long as they
run. Prompts are random words, so that no prefix cache helps. Printed are the inter-token latencies (ITL) of the streams
in both, the times to the first token (TTFT) of the prompts, and the p99 with prompts over the p50 without; at the end
its median. A server is started unless `--url` names one. Exit status 1 if a request failed. Nothing else should run on
the machine.
"""

import argparse
import contextlib
import itertools
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fast_inference.bench.connection import Client
from fast_inference.bench.interruption import Interruption, errors_as_exits
from fast_inference.bench.load import LoadResult, closed_loop, closed_loop_beside
from fast_inference.bench.metrics import Distribution, summarize
from fast_inference.bench.own_server import own_server
from fast_inference.bench.target import RequestOptions, Target
from fast_inference.bench.workload import Load, RandomPrompts
from fast_inference.cli_bench import split_at_dashes
from ipc.errors import ConfigError

GOAL = 3.0
"""Of the streams' ITL p99 with prompts in relation to their p50 without: at most."""
STREAM_PROMPT_WORDS = 20
WARM_UP_TOKENS = 8
_ALONE, _BESIDE, _PROMPTS, _WARM_UP = range(4)
"""What is drawn for: no two draw the same prompts."""


@dataclass(frozen=True)
class Round:
    """What one round came to; times in milliseconds."""

    alone: Distribution
    """ITL of the streams."""
    beside: Distribution
    """The same with prompts."""
    prompts: Distribution
    """TTFT."""
    num_prompts: int
    num_prompt_tokens: float
    """Of each, in the mean."""

    @property
    def ratio(self) -> float:
        """The p99 with prompts over the p50 without."""
        return self.beside.p99 / self.alone.median


class MixedLoad:
    """The streams and the prompts of one run."""

    def __init__(self, arguments: argparse.Namespace, target: Target, client: Client) -> None:
        self._arguments, self._target, self._client = arguments, target, client
        self._source = RandomPrompts(arguments.seed)
        self.num_failed = 0

    async def warm_up(self) -> None:
        """A short stream and a long prompt, which are not counted."""
        requests = self._requests(self._streams(WARM_UP_TOKENS), 1, _WARM_UP, 0)
        requests += self._requests(self._long_prompts(), 1, _WARM_UP, 1)
        self._checked(await closed_loop(self._client, requests, 1))

    async def run(self, number: int) -> Round:
        """One round.

        Raises:
            ConfigError: the streams were over before a prompt came, or no stream has two tokens.
        """
        arguments, num_streams = self._arguments, self._arguments.streams
        streams = self._streams(arguments.tokens)
        requests = self._requests(streams, num_streams, _ALONE, number)
        alone = self._checked(await closed_loop(self._client, requests, num_streams))
        requests = self._requests(streams, num_streams, _BESIDE, number)
        others = self._endless_prompts(number)
        both = await closed_loop_beside(self._client, requests, num_streams, others, arguments.interval)
        beside, prompts = map(self._checked, both)
        metrics = summarize(prompts)
        itl_alone, itl_beside = summarize(alone).itl, summarize(beside).itl
        if itl_alone is None or itl_beside is None or metrics.ttft is None:
            raise ConfigError("the streams were over before anything could be measured: use more --tokens")
        num_tokens = metrics.total_input_tokens / metrics.completed
        return Round(itl_alone, itl_beside, metrics.ttft, metrics.completed, num_tokens)

    def _streams(self, num_tokens: int) -> Load:
        return Load(1, STREAM_PROMPT_WORDS, num_tokens, concurrency=1)

    def _long_prompts(self) -> Load:
        return Load(1, self._arguments.prompt_len, self._arguments.prompt_output_len, concurrency=1)

    def _requests(self, load: Load, count: int, *draw: int) -> list[bytes]:
        options = RequestOptions()
        return [self._target.request(prompt, options) for prompt in self._source.prompts(load, count, *draw)]

    def _endless_prompts(self, number: int) -> Iterator[bytes]:
        for turn in itertools.count():
            yield from self._requests(self._long_prompts(), 1, _PROMPTS, number, turn)

    def _checked(self, result: LoadResult) -> LoadResult:
        """Count and tell failures."""
        failures = [request.failure for request in result.requests if request.failure is not None]
        self.num_failed += len(failures)
        for text in dict.fromkeys(failure.text for failure in failures):
            print(f"failed: {text}", file=sys.stderr)
        return result


def describe(number: int, measured: Round) -> str:
    """A line for people."""
    return (
        f"round {number + 1}: ITL alone p50 {measured.alone.median:.1f} ms, p99 {measured.alone.p99:.1f} ms; "
        f"with prompts p50 {measured.beside.median:.1f} ms, p99 {measured.beside.p99:.1f} ms; "
        f"TTFT of {measured.num_prompts} prompts of {measured.num_prompt_tokens:.0f} tokens "
        f"p50 {measured.prompts.median:.0f} ms, p99 {measured.prompts.p99:.0f} ms; "
        f"p99 with / p50 alone {measured.ratio:.2f}x"
    )


async def measure(arguments: argparse.Namespace, url: str) -> int:
    """All rounds; returns the number of failed requests."""
    options = RequestOptions()
    target = await Target.parse(url).with_model(options, None)
    async with target.client(options) as client:
        load = MixedLoad(arguments, target, client)
        await load.warm_up()
        rounds = []
        for number in range(arguments.rounds):
            rounds.append(await load.run(number))
            print(describe(number, rounds[-1]), flush=True)
    ratio = statistics.median(measured.ratio for measured in rounds)
    print(f"p99 with prompts / p50 alone: {ratio:.2f}x (median of {len(rounds)}), goal at most {GOAL:.2f}x")
    return load.num_failed


@contextlib.contextmanager
def server(arguments: argparse.Namespace, flags: list[str]) -> Iterator[str]:
    """The URL of the one that was named, or of one of our own."""
    if arguments.url:
        yield arguments.url
        return
    with own_server([arguments.model, *flags]) as started:
        yield started.url


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="what running streams feel of long prompts")
    parser.add_argument("--url", help="base URL of a running server; without it, one is started and stopped")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="of a server that is started")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1000, help="of each stream")
    parser.add_argument("--prompt-len", type=int, default=1500, help="words of each long prompt")
    parser.add_argument("--prompt-output-len", type=int, default=16, help="tokens of its answer")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds from one long prompt to the next")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    own_flags, server_flags = split_at_dashes(sys.argv[1:])
    arguments = parser.parse_args(own_flags)
    if arguments.url and server_flags:
        parser.error("flags after -- are for a server that is started, and --url names one that runs")
    with errors_as_exits(), Interruption() as interruption, server(arguments, server_flags) as url:
        num_failed = interruption.run(lambda: measure(arguments, url))
    if num_failed:
        sys.exit(f"error: {num_failed} requests failed")


if __name__ == "__main__":
    main()
