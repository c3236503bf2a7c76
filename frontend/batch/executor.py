"""Answers the lines of a job: so many at a time, each pulled when another one is done.

What the engine refuses for now is tried again until it is taken (`patience.py`); what would be refused again is the
line's answer. Requests are of the class BATCH, so online requests come first.
Invariant: `run` hands on exactly one result for every line that it pulled, unless it is ended before.
Next: `frontend/endpoints.py` for what an answer is; `ipc/recovery.py` for requests whose core dies.
"""

import asyncio
import logging
import time
import uuid
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Protocol

from frontend.access import Caller
from frontend.api_call import ApiCall
from frontend.batch.lines import BatchLine, WrongLine
from frontend.batch.patience import Patience
from frontend.batch.result_lines import LineResult
from frontend.beginning import Beginning
from frontend.embedder import num_at_once
from frontend.endpoints import endpoints_of
from frontend.errors import error_body, internal_error_body
from frontend.generation import Generation
from frontend.state import FrontendState
from ipc.errors import ConfigError, EngineUnavailableError, FastInferenceError
from ipc.messages import RequestClass

log = logging.getLogger(__name__)

_READY_INTERVAL_S = 0.05
_GROW_INTERVAL_S = 1.0
"""How often it is looked whether there is room for more lines."""


class Source(Protocol):
    """Where lines are pulled from (`line_source.py`)."""

    async def next(self) -> BatchLine | WrongLine | None:
        """The next one; None at the end."""


class BatchExecutor:
    """Works for one job on one engine."""

    def __init__(
        self,
        state: FrontendState,
        caller: Caller,
        max_in_flight: int | None = None,
        beginnings: Mapping[str, Beginning] | None = None,
        slots: asyncio.Semaphore | None = None,
    ) -> None:
        """`caller.key_id` is the flow in which the job shares the engine; `max_in_flight` counts lines.

        Where that is not given, it is as many as the engine runs at once, and some that wait behind them; more of them
        when more cores come.
        `beginnings` are of answers that an earlier run has not ended, by `custom_id`. `slots` bound the lines that all
        jobs of one process have in flight.
        """
        self._state = state
        self._caller = caller
        self._max_in_flight = max_in_flight
        self._slots = slots or nullcontext()
        self._beginnings = dict(beginnings or {})
        self._generations: dict[str, Generation] = {}
        self._endpoints = endpoints_of(state)
        self._fingerprint = ""
        self._model_id = ""
        self.began_at: float | None = None
        """When the engine was ready, on the monotonic clock."""

    def beginnings(self) -> dict[str, Beginning]:
        """Of all answers that have begun, now or in an earlier run, and are not handed on."""
        begun = {custom_id: generation.beginning() for custom_id, generation in self._generations.items()}
        return self._beginnings | {custom_id: item for custom_id, item in begun.items() if item is not None}

    async def run(self, source: Source, on_result: Callable[[LineResult | WrongLine], None]) -> None:
        """Answer all lines of the source.

        Raises:
            ConfigError: the engine serves another model than before, or its first one cannot be used.
            Exception: whatever `source` or `on_result` raises. What is in flight is stopped in the engine in any case.
        """
        await self._state.wait_until_ready()
        self.began_at = time.monotonic()
        await self._first_model()
        workers: list[asyncio.Task[None]] = []
        working: set[asyncio.Task[None]] = set()
        try:
            while working or not workers:
                if len(working) == len(workers):  # else one of them has found the end of the source
                    num_more = self._num_workers() - len(workers)
                    workers += [asyncio.create_task(self._work(source, on_result)) for _ in range(num_more)]
                    working = {*workers}
                ended, working = await asyncio.wait(working, timeout=_GROW_INTERVAL_S, return_when=FIRST_COMPLETED)
                for worker in ended:
                    worker.result()
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def _num_workers(self) -> int:
        """Lines in flight; more when more cores come. When some go, what is too much is refused, and waits."""
        return self._max_in_flight or num_at_once(self._state.client.capacity)

    async def _work(self, source: Source, on_result: Callable[[LineResult | WrongLine], None]) -> None:
        while (line := await source.next()) is not None:
            if isinstance(line, WrongLine):
                on_result(line)
                await asyncio.sleep(0)  # others go on between lines that cost no time
                continue
            async with self._slots:
                result = await self._result_of(line)
            on_result(result)
            self._generations.pop(line.custom_id, None)
            self._beginnings.pop(line.custom_id, None)

    async def _result_of(self, line: BatchLine) -> LineResult:
        """Try until there is an answer that will do."""
        patience = Patience(self._state.client)
        while True:
            request_id = uuid.uuid4().hex
            try:
                self._check_model()
                body = await self._endpoints[line.url].answer_to(self._call(line, request_id), line.body)
                return LineResult(line.custom_id, request_id, 200, body)
            except ConfigError:
                raise
            except FastInferenceError as error:
                wait_s = patience.wait_s(error)
                if wait_s is None:
                    return _refused(line, request_id, error_body(error))
                if isinstance(error, EngineUnavailableError):
                    self._keep_beginning(line)
            except Exception:
                log.exception("line %d failed", line.number)
                return _refused(line, request_id, internal_error_body())
            await asyncio.sleep(wait_s)

    def _call(self, line: BatchLine, request_id: str) -> ApiCall:
        def keep(generation: Generation) -> None:
            self._generations[line.custom_id] = generation

        return ApiCall(
            self._caller,
            request_id,
            request_class=RequestClass.BATCH,
            beginning=self._beginnings.get(line.custom_id),
            on_generation=keep,
        )

    def _keep_beginning(self, line: BatchLine) -> None:
        """Go on behind what there is already, when the line is tried again."""
        generation = self._generations.pop(line.custom_id, None)
        beginning = generation.beginning() if generation is not None else None
        if beginning is not None:
            self._beginnings[line.custom_id] = beginning

    def _check_model(self) -> None:
        """Raise `ConfigError` where the engine has another model than at first: its answers would be others too."""
        welcome = self._state.model().welcome
        if not self._fingerprint:
            self._fingerprint, self._model_id = welcome.model_fingerprint, welcome.model_id
        if welcome.model_fingerprint != self._fingerprint:
            raise ConfigError(f"the engine serves {welcome.model_id} now, no longer {self._model_id}")

    async def _first_model(self) -> None:
        """Wait until the engine takes requests for its model."""
        while True:
            try:
                self._state.model()
            except EngineUnavailableError:
                await asyncio.sleep(_READY_INTERVAL_S)
            else:
                return


def _refused(line: BatchLine, request_id: str, body: dict[str, Any]) -> LineResult:
    return LineResult(line.custom_id, request_id, body["error"]["status"], body)
