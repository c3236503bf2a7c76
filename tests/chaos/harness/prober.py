"""Probes at short intervals while something is broken: how soon it is noticed, and how requests are refused meanwhile.

One round of probes is readiness, liveness and a request of one token, each on a connection of its own, so that all
frontends get some of them.
"""

import asyncio
import time
from dataclasses import dataclass

from tests.chaos.harness.answers import MalformedError, read_error
from tests.chaos.harness.exchange import Ending, Exchange, ask
from tests.chaos.harness.questions import get, post

_INTERVAL_S = 0.025
ALL_KINDS = ("ready", "live", "request")


@dataclass(frozen=True)
class Probe:
    """One of them."""

    kind: str
    """`ready`, `live` or `request`."""
    exchange: Exchange

    @property
    def is_refusal(self) -> bool:
        """A 503 with Retry-After and the error envelope."""
        exchange = self.exchange
        if exchange.ending is not Ending.WHOLE or exchange.status != 503:
            return False
        try:
            read_error(bytes(exchange.body))
        except MalformedError:
            return False
        return 1 <= int(exchange.headers.get("retry-after", "0")) <= 60

    def __str__(self) -> str:
        exchange = self.exchange
        return (
            f"{self.kind}: {exchange.ending} {exchange.status} {bytes(exchange.body[:120])!r} {exchange.seconds:.2f} s"
        )


class Prober:
    """Probes until it is closed; a context manager."""

    def __init__(self, port: int, model: str, kinds: tuple[str, ...], *, hang_s: float) -> None:
        self.probes: list[Probe] = []
        body = b'{"model": "%b", "prompt": "probe", "max_tokens": 1, "ignore_eos": true}' % model.encode()
        requests = {"ready": get("/health"), "live": get("/health/live"), "request": post("/v1/completions", body)}
        self._requests = {kind: requests[kind] for kind in kinds}
        self._port = port
        self._hang_s = hang_s
        self._under_way: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Prober":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*self._under_way)

    def first_unready(self, since: float) -> float | None:
        """When the first readiness probe that was not answered with 200 ended; None where there was none."""
        unready = [probe.exchange.ended_at for probe in self.of("ready", since) if probe.exchange.status != 200]
        return min(unready, default=None)

    def of(self, kind: str, since: float, until: float = float("inf")) -> list[Probe]:
        """Those of a kind that were sent in a span of time, and have ended."""
        return [probe for probe in self.probes if probe.kind == kind and since <= probe.exchange.sent_at < until]

    def between(self, since: float, until: float) -> list[Probe]:
        """All kinds."""
        return [probe for probe in self.probes if since <= probe.exchange.sent_at < until]

    async def _run(self) -> None:
        while True:
            for kind, request in self._requests.items():
                task = asyncio.create_task(self._probe(kind, request))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            await asyncio.sleep(_INTERVAL_S)

    async def _probe(self, kind: str, request: bytes) -> None:
        exchange = Exchange(time.monotonic())
        await ask(self._port, request, exchange=exchange, hang_s=self._hang_s)
        self.probes.append(Probe(kind, exchange))
