"""The same requests, at the same times, against a real server and in the simulation; and how far the two are apart.

The list is recorded before: arrival times, prompts as token ids and lengths of answers, from the sessions of a workload
with the answers made up, so that nothing in it depends on what a server says or how fast it is. Answers therefore are
not what the next turn goes on from: that finds in the cache what was in the prompt before.
Invariant: no figure of the server is used to simulate.
"""

import asyncio
import math
import re
import statistics
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fast_inference.bench.connection import Client
from fast_inference.bench.fleet.core_model import CoreSettings
from fast_inference.bench.fleet.fitting import MeasuredModel
from fast_inference.bench.fleet.policies import MAKERS
from fast_inference.bench.fleet.results import percentile
from fast_inference.bench.fleet.simulation import FleetSettings, Simulation
from fast_inference.bench.fleet.step_time import Profile
from fast_inference.bench.fleet.tokens import Alphabet, Text
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
_FINISHED_SERIES = re.compile(
    r'fast_inference_request_success_total\{.*core="(?P<core>[^"]*)".*finished_reason="length".*\} (?P<count>\S+)'
)
_FAKE_ALPHABET, _REAL_ALPHABET = Alphabet(200, 32), Alphabet(10_000, 1000)
"""Ordinary token ids of the fake model, and of others."""


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

    @property
    def is_close(self) -> bool:
        """Within `BOUND`; two zeros are."""
        return abs(self.simulated - self.measured) <= BOUND * self.measured


class OneTurn(Session):
    """A session that is one recorded request."""

    def __init__(self, number: int, request: RecordedRequest, owner: int) -> None:
        self._turn: Turn | None = Turn(number, request.prompt, request.num_output_tokens, owner, 0.0)

    def next_turn(self) -> Turn | None:
        """The request, once."""
        turn, self._turn = self._turn, None
        return turn


@dataclass(frozen=True, slots=True)
class Validation:
    """What is played."""

    model: MeasuredModel
    workload: str
    num_cores: int
    rate: float
    """Requests per second for each core, in the mean."""
    duration_s: float
    num_frontends: int = 2
    policy: str = "ours"
    seed: int = 0

    def record(self) -> list[RecordedRequest]:
        """The list."""
        workload = Workload(SHAPES[self.workload], self.num_cores, self.rate * self.num_cores, self.seed)
        return record(workload, self.duration_s)

    def compare(self, recorded: Sequence[RecordedRequest], profile: Profile, num_rounds: int) -> list[Comparison]:
        """The figures of the simulation beside the medians of so many runs of a server.

        Raises:
            ConfigError: a server could not be measured.
        """
        simulated = self._simulate(recorded, profile)
        measured = [self._measure(recorded) for _ in range(num_rounds)]
        return [
            Comparison(name, statistics.median(figures[name] for figures in measured), simulated[name])
            for name in simulated
        ]

    @property
    def _alphabet(self) -> Alphabet:
        return _FAKE_ALPHABET if self.model.model == FAKE_MODEL else _REAL_ALPHABET

    def _simulate(self, recorded: Sequence[RecordedRequest], profile: Profile) -> dict[str, float]:
        core = CoreSettings(profile.step_time, self.model.num_blocks, max_num_seqs=self.model.max_num_seqs)
        duration_s = recorded[-1].arrives_s + 1.0
        settings = FleetSettings(
            core, self.num_cores, self.num_frontends, duration_s, alphabet=self._alphabet, seed=self.seed
        )
        simulation = Simulation(settings, _sessions(recorded), MAKERS[self.policy], may_go_on=True)
        results = simulation.run()
        return _figures(
            max(request.last_token_s for request in simulation.finished) - recorded[0].arrives_s,
            [request.num_output_tokens for request in simulation.finished],
            list(results.ttft_s),
            list(results.e2e_s),
            results.num_cached_tokens / results.num_prompt_tokens,
            list(results.requests_of_cores.values()),
        )

    def _measure(self, recorded: Sequence[RecordedRequest]) -> dict[str, float]:
        """The figures of a server that lives for this run."""
        flags = [*self.model.flags, "--frontends", str(self.num_frontends)]
        if self.num_cores > 1:
            flags += ["--cores", str(self.num_cores)]
        with own_server(flags) as server:
            result = asyncio.run(_play(server.url, recorded, self._alphabet))
            requests_of_cores = _requests_of_cores(server.url)
        failures = [request.failure for request in result.requests if request.failure is not None]
        if failures:
            raise ConfigError(f"{len(failures)} requests failed, the first with {failures[0].text}")
        num_cached_tokens = sum(request.cached_tokens for request in result.requests)
        return _figures(
            max(request.ended_at for request in result.requests) - min(request.sent_at for request in result.requests),
            [request.output_tokens for request in result.requests],
            [request.ttft_s for request in result.requests],
            [request.e2el_s for request in result.requests],
            num_cached_tokens / sum(request.prompt_tokens for request in result.requests),
            requests_of_cores,
        )


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


def _sessions(recorded: Sequence[RecordedRequest]) -> Iterator[tuple[float, Session]]:
    first_owner = 1 + max(owner for request in recorded for owner, _ in request.prompt.parts)
    for number, request in enumerate(recorded):
        yield request.arrives_s, OneTurn(number, request, first_owner + number)


def _requests_of_cores(url: str) -> list[int]:
    """How many requests each core has finished."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:
        text = response.read().decode()
    counts: Counter[str] = Counter()
    for line in text.splitlines():
        if found := _FINISHED_SERIES.match(line):
            counts[found["core"]] += int(float(found["count"]))
    return list(counts.values())


async def _play(url: str, recorded: Sequence[RecordedRequest], alphabet: Alphabet) -> LoadResult:
    options = RequestOptions()
    target = await Target.parse(url).with_model(options, None)
    prompts = [Prompt(request.prompt.token_ids(alphabet).tolist(), request.num_output_tokens) for request in recorded]
    requests = [target.request(prompt, options) for prompt in prompts]
    client: Client
    async with target.client(options) as client:
        return await open_loop(client, requests, [request.arrives_s for request in recorded])


def _figures(
    duration_s: float,
    num_output_tokens: Sequence[int],
    ttft_s: list[float],
    e2e_s: list[float],
    hit_rate: float,
    of_cores: list[int],
) -> dict[str, float]:
    return {
        "output tokens/s": sum(num_output_tokens) / duration_s,
        "TTFT p50 ms": percentile(ttft_s, 50) * 1e3,
        "TTFT p99 ms": percentile(ttft_s, 99) * 1e3,
        "e2e p50 ms": percentile(e2e_s, 50) * 1e3,
        "cache hit rate": hit_rate,
        "busiest core / mean": max(of_cores) * len(of_cores) / sum(of_cores),
    }
