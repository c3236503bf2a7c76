#!/usr/bin/env python3
"""What nginx in front of the frontends (configs/nginx.conf) costs a stream.

    scripts/bench_nginx.py                                       # 200 streams, 8 at a time, the fake model, 10 ms steps
    scripts/bench_nginx.py --model smollm2-135m-instruct --streams 40
    scripts/bench_nginx.py --concurrency 1 -- --fake-step-ms 50  # flags of `fast-inference serve` after --

A server with two ports and nginx run for as long as it takes. In each round the same number of streams goes to a
frontend and then through nginx, with other prompts. Printed are the times to the first token (TTFT) and between tokens
(ITL). Exit status 1 if the p99 of the first tokens through nginx is 50 ms or more behind the median of those without,
if the gaps between tokens are not those of the server (events were held back), or if a request failed.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fast_inference.bench.goals import Figure, verdict_on
from fast_inference.bench.interruption import Interruption, errors_as_exits
from fast_inference.bench.load import closed_loop
from fast_inference.bench.metrics import Distribution, summarize
from fast_inference.bench.own_server import own_server
from fast_inference.bench.target import RequestOptions, Target
from fast_inference.bench.workload import Load, RandomPrompts
from fast_inference.cli_bench import split_at_dashes
from ipc.errors import ConfigError
from tests.nginx import Nginx

MAX_DELAY_MS = 50.0
"""Of the first token through nginx behind ours."""
MIN_MEDIAN_GAP = 0.5
"""Share of the median gap that must be left: held back events come together, with none between them."""
PROMPT_WORDS = 20


@dataclass(frozen=True)
class Way:
    """One way to the server, and what it came to."""

    name: str
    ttft: Distribution
    itl: Distribution

    def __str__(self) -> str:
        return (
            f"{self.name:<14} TTFT p50 {self.ttft.median:7.2f}  p99 {self.ttft.p99:7.2f} ms"
            f"   ITL p50 {self.itl.median:7.2f}  p99 {self.itl.p99:7.2f} ms"
        )


async def measure_path(name: str, url: str, arguments: argparse.Namespace, draw: int) -> Way:
    """Some streams on one way.

    Raises:
        ConfigError: one of them failed.
    """
    options = RequestOptions()
    target = await Target.parse(url).with_model(options, None)
    load = Load(arguments.streams, PROMPT_WORDS, arguments.tokens, concurrency=arguments.concurrency)
    prompts = RandomPrompts(arguments.seed).prompts(load, arguments.streams, draw)
    async with target.client(options) as client:
        metrics = summarize(
            await closed_loop(client, [target.request(prompt, options) for prompt in prompts], arguments.concurrency)
        )
    if metrics.failed or metrics.ttft is None or metrics.itl is None:
        raise ConfigError(f"{metrics.failed} requests failed ({name}): {metrics.failures}")
    return Way(name, metrics.ttft, metrics.itl)


async def measure(urls: Sequence[tuple[str, str]], arguments: argparse.Namespace) -> list[Figure]:
    """All rounds, and the figures of the median round."""
    delays, gaps = [], []
    await measure_path("warm-up", urls[0][1], arguments, 0)
    for number in range(arguments.rounds):
        ours, through = [
            await measure_path(name, url, arguments, 1 + 2 * number + way) for way, (name, url) in enumerate(urls)
        ]
        print(ours, through, sep="\n", flush=True)
        delays.append(through.ttft.p99 - ours.ttft.median)
        gaps.append(through.itl.median / ours.itl.median)
    return [
        Figure("first token through nginx, p99, behind ours, p50", statistics.median(delays), MAX_DELAY_MS, "ms"),
        Figure("gap of tokens through nginx over ours, p50", statistics.median(gaps), MIN_MEDIAN_GAP, "x", True),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="what nginx in front costs a stream")
    parser.add_argument("--model", default="fake")
    parser.add_argument("--streams", type=int, default=200, help="in each round and on each way")
    parser.add_argument("--tokens", type=int, default=32, help="of each stream")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    own_flags, server_flags = split_at_dashes(sys.argv[1:])
    arguments = parser.parse_args(own_flags)
    if arguments.model == "fake" and "--fake-step-ms" not in server_flags:
        server_flags += ["--fake-step-ms", "10"]
    flags = [arguments.model, "--frontends", "2", "--frontend-ports", *server_flags]
    with (
        errors_as_exits(),
        Interruption() as interruption,
        own_server(flags) as server,
        tempfile.TemporaryDirectory(prefix="fast-inference-nginx-") as folder,
        Nginx(Path(folder), server.frontend_ports) as nginx,
    ):
        urls = [("frontend", server.url), ("through nginx", nginx.url)]
        figures = interruption.run(lambda: measure(urls, arguments))
    for figure in figures:
        print(figure)
    sys.exit(verdict_on(figures))


if __name__ == "__main__":
    main()
