"""The same requests, at the same times, against a real server and in the simulation; and how far the two are apart.

The list is recorded before: arrival times, prompts as token ids and lengths of answers, from the sessions of a workload
with the answers made up, so that nothing in it depends on what a server says or how fast it is. Answers therefore are
not what the next turn goes on from: that finds in the cache what was in the prompt before. The step-time model is
measured in this process first (`fitting.py`), unless `--profile` names one with `--keep-profile`.
Invariant: no figure of the server is used to simulate.
"""

import argparse
import asyncio
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fast_inference.bench.connection import Client
from fast_inference.bench.fleet.core_model import CoreSettings
from fast_inference.bench.fleet.fitting import measure_profile
from fast_inference.bench.fleet.policies import MAKERS
from fast_inference.bench.fleet.results import percentile
from fast_inference.bench.fleet.simulation import FleetSettings, Simulation
from fast_inference.bench.fleet.step_time import Profile, load_profile
from fast_inference.bench.fleet.tokens import Text
from fast_inference.bench.fleet.workloads import SHAPES, Session, Turn, Workload
from fast_inference.bench.load import LoadResult, open_loop
from fast_inference.bench.own_server import own_server
from fast_inference.bench.target import RequestOptions, Target
from fast_inference.bench.workload import Prompt
from ipc.config import FAKE_MODEL
from ipc.errors import ConfigError

BOUND = 0.15
"""Of a simulated figure, in relation to the measured one."""
_ANSWER_S = 3.0
"""That an answer is taken to last when the list is recorded."""
_FAKE_TOKENS, _REAL_TOKENS = (200, 32), (10_000, 1000)
"""How many different token ids prompts are made of, and the first: ordinary ones of the fake model, and of others."""


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One of the list."""

    arrives_s: float
    prompt: Text
    num_output_tokens: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of both."""

    name: str
    measured: float
    simulated: float

    @property
    def ratio(self) -> float:
        """Simulated over measured."""
        return self.simulated / self.measured if self.measured else math.nan


class OneTurn(Session):
    """A session that is one recorded request."""

    def __init__(self, number: int, request: RecordedRequest, owner: int) -> None:
        self._turn: Turn | None = Turn(number, request.prompt, request.num_output_tokens, owner, 0.0)

    def next_turn(self) -> Turn | None:
        """The request, once."""
        turn, self._turn = self._turn, None
        return turn


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Those of `--validate`."""
    group = parser.add_argument_group("validation")
    group.add_argument("--validate", action="store_true", help="play --duration seconds against a server with --cores")
    group.add_argument("--keep-profile", action="store_true", help="simulate --profile and measure none")
    group.add_argument("--frontends", type=int, default=2, help="of the server")
    group.add_argument("--rounds", type=int, default=1, help="runs of the server, of which medians are taken")


def run(arguments: argparse.Namespace) -> bool:
    """Record, measure, simulate, print; True where all that is bounded is within `BOUND`.

    Raises:
        ConfigError: the server cannot be measured.
    """
    num_cores, rate = arguments.cores[0], arguments.rates[0]
    num_blocks = arguments.num_blocks or 2048
    workload = Workload(SHAPES[arguments.workloads[0]], num_cores, rate * num_cores, arguments.seed)
    recorded = record(workload, arguments.duration)
    if arguments.keep_profile:
        profile = load_profile(arguments.profile).with_blocks(num_blocks)
    else:
        profile = measure_profile(arguments, num_blocks, "")
    print(f"{len(recorded)} requests in {arguments.duration:g} s to {num_cores} cores; {profile.description}")
    simulated = simulate(recorded, profile, num_cores, arguments)
    measured = [_measure(recorded, num_cores, num_blocks, arguments) for _ in range(arguments.rounds)]
    comparisons = [
        Comparison(name, statistics.median(figures[name] for figures in measured), simulated[name])
        for name in simulated
    ]
    print("| | measured | simulated | ratio |\n|---|---|---|---|")
    for comparison in comparisons:
        print(
            f"| {comparison.name} | {comparison.measured:.4g} | {comparison.simulated:.4g} | {comparison.ratio:.3f} |"
        )
    outside = [comparison.name for comparison in comparisons if abs(comparison.ratio - 1) > BOUND]
    print(f"outside of {BOUND:.0%}: {', '.join(outside) or 'none'}")
    return not outside


def record(workload: Workload, duration_s: float) -> list[RecordedRequest]:
    """All requests of sessions that begin in this time and are sent in it, in order of time."""
    recorded: list[RecordedRequest] = []
    for begins_s, session in workload.sessions():
        if begins_s >= duration_s:
            break
        arrives_s = begins_s
        while arrives_s < duration_s and (turn := session.next_turn()) is not None:
            recorded.append(RecordedRequest(arrives_s, turn.prompt, turn.num_output_tokens))
            arrives_s += _ANSWER_S + turn.think_s
    return sorted(recorded, key=lambda request: request.arrives_s)


def simulate(
    recorded: Sequence[RecordedRequest], profile: Profile, num_cores: int, arguments: argparse.Namespace
) -> dict[str, float]:
    """The figures of a simulated run."""
    core = CoreSettings(profile.step_time, profile.num_blocks, max_num_seqs=arguments.max_num_seqs)
    duration_s = recorded[-1].arrives_s + 1.0
    settings = FleetSettings(core, num_cores, arguments.frontends, duration_s, seed=arguments.seed)
    simulation = Simulation(settings, _sessions(recorded), MAKERS[arguments.policies[0]], may_go_on=True)
    results = simulation.run()
    ends_s = max(request.last_token_s for request in simulation.finished)
    figures = _figures(
        ends_s - recorded[0].arrives_s,
        [request.num_output_tokens for request in simulation.finished],
        list(results.ttft_s),
        list(results.e2e_s),
        results.num_cached_tokens / results.num_prompt_tokens,
    )
    return figures


def _sessions(recorded: Sequence[RecordedRequest]) -> Iterator[tuple[float, Session]]:
    first_owner = 1 + max(owner for request in recorded for owner, _ in request.prompt.parts)
    for number, request in enumerate(recorded):
        yield request.arrives_s, OneTurn(number, request, first_owner + number)


def _measure(
    recorded: Sequence[RecordedRequest], num_cores: int, num_blocks: int, arguments: argparse.Namespace
) -> dict[str, float]:
    """The figures of a server that lives for this run."""
    flags = ["--num-blocks", str(num_blocks), "--max-num-seqs", str(arguments.max_num_seqs)]
    flags += ["--model", arguments.model, "--frontends", str(arguments.frontends), "--threads", str(arguments.threads)]
    if num_cores > 1:
        flags += ["--cores", str(num_cores)]
    if arguments.model == FAKE_MODEL:
        flags += ["--fake-step-ms", str(arguments.fake_step_ms), "--fake-token-us", str(arguments.fake_token_us)]
    with own_server(flags) as server:
        result = asyncio.run(_play(server.url, recorded, arguments.model))
    failures = [request.failure for request in result.requests if request.failure is not None]
    if failures:
        raise ConfigError(f"{len(failures)} requests failed, the first with {failures[0].text}")
    return _figures(
        max(request.ended_at for request in result.requests) - min(request.sent_at for request in result.requests),
        [request.output_tokens for request in result.requests],
        [request.ttft_s for request in result.requests],
        [request.e2el_s for request in result.requests],
        sum(request.cached_tokens for request in result.requests)
        / sum(request.prompt_tokens for request in result.requests),
    )


async def _play(url: str, recorded: Sequence[RecordedRequest], model: str) -> LoadResult:
    options = RequestOptions()
    target = await Target.parse(url).with_model(options, None)
    base, offset = _FAKE_TOKENS if model == FAKE_MODEL else _REAL_TOKENS
    prompts = [
        Prompt(request.prompt.token_ids(base, offset).tolist(), request.num_output_tokens) for request in recorded
    ]
    requests = [target.request(prompt, options) for prompt in prompts]
    client: Client
    async with target.client(options) as client:
        return await open_loop(client, requests, [request.arrives_s for request in recorded])


def _figures(
    duration_s: float, num_output_tokens: Sequence[int], ttft_s: list[float], e2e_s: list[float], hit_rate: float
) -> dict[str, float]:
    return {
        "output tokens/s": sum(num_output_tokens) / duration_s,
        "TTFT p50 ms": percentile(ttft_s, 50) * 1e3,
        "TTFT p99 ms": percentile(ttft_s, 99) * 1e3,
        "e2e p50 ms": percentile(e2e_s, 50) * 1e3,
        "cache hit rate": hit_rate,
    }
