"""Clients: many at once in one event loop, each exchange judged by the oracle as soon as it ends.

`once` asks so many questions together; `keep_busy` keeps so many clients asking one after the other until it is told to
stop. Invariant: a record is in `records` from the moment that its request is sent, so that a scenario can say what was
under way when something broke.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.chaos.harness.exchange import HANG_S, Cut, Exchange, ask
from tests.chaos.harness.oracle import Oracle, Outcome, Verdict
from tests.chaos.harness.questions import Question

_BACKOFF_S = 0.1
"""Pause of a client whose request was refused."""


@dataclass
class Record:
    """One request of a run."""

    question: Question
    exchange: Exchange
    is_stream: bool
    verdict: Verdict | None = None
    """None while it is under way."""

    @property
    def outcome(self) -> Outcome | None:
        """What it came to."""
        return None if self.verdict is None else self.verdict.outcome

    def __str__(self) -> str:
        what = "no verdict" if self.verdict is None else f"{self.verdict.outcome.value} {self.verdict.detail}".strip()
        form = "stream" if self.is_stream else "whole"
        return f"{self.question.name}, {form}, {self.exchange.seconds:.2f} s: {what}"


ChooseCut = Callable[[random.Random], Cut | None]


class Load:
    """All the clients of one run."""

    def __init__(self, port: int, oracle: Oracle, seed: str, *, hang_s: float = HANG_S) -> None:
        self.port = port
        self.records: list[Record] = []
        self._oracle = oracle
        self._seed = seed
        self._hang_s = hang_s
        self._num_clients = 0

    async def once(
        self, count: int, *, stream: bool | None = True, choose_cut: ChooseCut = lambda rng: None
    ) -> list[Record]:
        """Ask so many questions at the same time; `stream=None` mixes both forms."""
        return list(await asyncio.gather(*(self._ask_one(self._next_rng(), stream, choose_cut) for _ in range(count))))

    async def keep_busy(
        self,
        count: int,
        until: asyncio.Event,
        *,
        stream: bool | None = True,
        choose_cut: ChooseCut = lambda rng: None,
    ) -> None:
        """Let so many clients ask, one question after the other, until the event; what was begun is finished."""

        async def client(rng: random.Random) -> None:
            while not until.is_set():
                record = await self._ask_one(rng, stream, choose_cut)
                if record.outcome in (Outcome.REFUSED, Outcome.UNREACHED):
                    await asyncio.sleep(_BACKOFF_S)

        await asyncio.gather(*(client(self._next_rng()) for _ in range(count)))

    async def until_begun(self, count: int, timeout_s: float = 120.0) -> None:
        """Wait until so many exchanges have shown something of their answer.

        Raises:
            TimeoutError: they did not in time.
        """
        async with asyncio.timeout(timeout_s):
            while sum(bool(record.exchange.num_bytes) for record in self.records) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def under_way(self, moment: float | None = None) -> list[Record]:
        """Requests that were sent before that moment (now, where none is given) and ended after it."""
        moment = time.monotonic() if moment is None else moment
        return [record for record in self.records if record.exchange.is_under_way(moment)]

    @property
    def ended_at(self) -> float:
        """When the last request ended."""
        return max(record.exchange.ended_at for record in self.records)

    def with_outcome(self, *outcomes: Outcome) -> list[Record]:
        """Those that came to this."""
        return [record for record in self.records if record.outcome in outcomes]

    def counts(self) -> str:
        """How many came to what, in words."""
        return counts(self.records)

    def _next_rng(self) -> random.Random:
        self._num_clients += 1
        return random.Random(f"{self._seed}, client {self._num_clients}")

    async def _ask_one(self, rng: random.Random, stream: bool | None, choose_cut: ChooseCut) -> Record:
        question = rng.choice(self._oracle.questions)
        is_stream = rng.random() < 0.5 if stream is None else stream
        record = Record(question, Exchange(time.monotonic()), is_stream)
        self.records.append(record)
        request = question.request(stream=is_stream)
        await ask(self.port, request, cut=choose_cut(rng), hang_s=self._hang_s, exchange=record.exchange)
        record.verdict = self._oracle.judge(question, record.exchange)
        record.exchange.body.clear()
        return record


def counts(records: Iterable[Record]) -> str:
    """How many came to what, in words."""
    found = Counter("under way" if record.outcome is None else record.outcome.value for record in records)
    return ", ".join(f"{count} {outcome}" for outcome, count in found.most_common())
