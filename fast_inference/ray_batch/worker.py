"""What Ray Data runs on each node: an actor with an engine core that answers blocks, each into a part of its own.

A `BatchWorker` is a class for `ray.data.Dataset.map_batches`; it knows nothing of Ray. Two calls run beside each other,
in threads: a block begins when all lines of the one before are under way, so that the engine does not run empty while
the last answers of a block end. A line that is wrong, or that the engine refuses, is a line of the errors; where an
engine or a disk fails for good, the job ends. Invariant: a call returns when its part is done, whoever did it.
Next: `frontend/batch/executor.py` for how lines are answered, `parts.py` for how a part is committed.
"""

import asyncio
import os
import shutil
import threading
import uuid
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fast_inference.batch.engine import Engine, EngineEndedError, attached_engine, attached_run_dir, own_engine
from fast_inference.model_store import resolve_model
from fast_inference.progress import log_progress
from fast_inference.ray_batch.parts import OutputFolder, OutputFormat, PartCounts
from fast_inference.ray_batch.plan import Block, read_block
from fast_inference.settings import Settings
from frontend.access import Caller
from frontend.batch.executor import BatchExecutor
from frontend.batch.job import JobCounts
from frontend.batch.ledger import LineLedger
from frontend.batch.line_source import LineSource, Reorder
from frontend.batch.lines import BatchLine, WrongLine
from frontend.batch.result_lines import LineResult, is_answer, result_line
from frontend.embedder import num_at_once
from ipc.errors import ConfigError
from ipc.process import raise_descriptor_limit

BLOCK_COLUMN = "block"
COUNTS_COLUMN, FAILURE_COLUMN = "counts", "failure"
"""What a row of the data set has before, and after: one of the two is empty."""
NUM_CALLS = 2
"""At once, of one worker."""


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """What all workers of a job are told."""

    input: Path
    output: Path
    output_format: OutputFormat
    settings: dict[str, Any]
    """Of a core of one's own, as JSON; without secrets."""
    attach: str | None
    """Run dir or URL of the server of the node; None for a core of one's own."""
    max_body_bytes: int
    max_in_flight: int | None
    reorder: Reorder


class BatchWorker:
    """One engine, and the blocks that it is given."""

    def __init__(self, job: WorkerJob) -> None:
        """Start the engine, and wait until it is ready; what keeps it from that is what every call returns."""
        self._job = job
        self._output = OutputFolder(job.output, job.output_format)
        self._caller = Caller(f"batch:{uuid.uuid4().hex}")  # its flow: workers share what batch gets of a core
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        raise_descriptor_limit()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="batch", daemon=True).start()
        self._failure: ConfigError | None = None
        try:
            self._engine = self._run(self._connect())
        except ConfigError as error:
            self._failure = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Answer blocks, in JSON; returns for each what its part holds, in JSON, or why the job cannot go on.

        That is no exception, because Ray would tell of it in hundreds of lines.
        """
        rows = [self._row_of(Block.from_json(text)) for text in batch[BLOCK_COLUMN]]
        return {name: [row[name] for row in rows] for name in (COUNTS_COLUMN, FAILURE_COLUMN)}

    def _row_of(self, block: Block) -> dict[str, str]:
        try:
            if self._failure is not None:
                raise self._failure
            part = self._run(self._part_of(block))
        except ConfigError as error:
            return {COUNTS_COLUMN: "", FAILURE_COLUMN: error.message}
        return {COUNTS_COLUMN: part.to_json().decode(), FAILURE_COLUMN: ""}

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _connect(self) -> Engine:
        """The engine stays until this process ends: the core ends with it, and a server with what was asked of it."""
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(self._engine_of_job())
            ready = asyncio.create_task(engine.state.wait_until_ready())
            await _first_of(ready, engine)
            at_once = self._job.max_in_flight or num_at_once(engine.state.client.capacity)
            self._slots = asyncio.Semaphore(at_once)
            self._turn = asyncio.Lock()
            self._open = stack.pop_all()
        return engine

    def _engine_of_job(self) -> AbstractAsyncContextManager[Engine]:
        if self._job.attach is not None:
            return attached_engine(attached_run_dir(self._job.attach))
        settings = Settings(**self._job.settings)
        model = resolve_model(settings.model, log_progress, rope=settings.rope)
        return own_engine(settings.model_copy(update={"model": model}), lambda stage: log_progress(stage, None))

    async def _part_of(self, block: Block) -> PartCounts:
        done = self._output.counts(block.index)
        if done is not None:  # by a call whose result was lost with its node
            self._output.publish(block.index)
            return done
        try:
            folder = self._output.begin_try(block.index)
        except OSError as error:
            raise ConfigError(f"cannot write {self._job.output}: {error.strerror}") from error
        try:
            lines = await asyncio.to_thread(read_block, self._job.input, block, self._job.max_body_bytes)
            part = _Part(LineSource(lines, LineLedger(frozenset(block.duplicates)), self._job.reorder), self._turn)
            executor = BatchExecutor(self._engine.state, self._caller, self._job.max_in_flight, slots=self._slots)
            await _first_of(asyncio.create_task(part.answer(executor)), self._engine)
            counts = part.counts
            done = PartCounts(
                block.index, counts.num_ok, counts.num_failed, counts.num_prompt_tokens, counts.num_output_tokens
            )
            return await asyncio.to_thread(self._output.commit, folder, done, part.answers, part.errors)
        except OSError as error:
            raise ConfigError(f"cannot write {self._job.output}: {error.strerror}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _Part:
    """The results of one block; also the source of its lines, which lets the next block begin when it has no more."""

    def __init__(self, source: LineSource, turn: asyncio.Lock) -> None:
        self._source = source
        self._turn = turn
        self._has_turn = False
        self._numbers: dict[str, int] = {}
        self._answers: list[tuple[int, bytes]] = []
        self._errors: list[tuple[int, bytes]] = []
        self.counts = JobCounts()

    @property
    def answers(self) -> list[bytes]:
        """Lines of the output, in the order of the input."""
        return [line for _, line in sorted(self._answers)]

    @property
    def errors(self) -> list[bytes]:
        """Lines of the errors, in the order of the input."""
        return [line for _, line in sorted(self._errors)]

    async def answer(self, executor: BatchExecutor) -> None:
        """All lines; raises as `BatchExecutor.run` does."""
        await self._turn.acquire()
        self._has_turn = True
        try:
            await executor.run(self, self._add)
        finally:
            self._pass_turn()

    async def next(self) -> BatchLine | WrongLine | None:
        """The next line of the block; None at the end."""
        line = await self._source.next()
        if line is None:
            self._pass_turn()
        elif isinstance(line, BatchLine):
            self._numbers[line.custom_id] = line.number
        return line

    def _pass_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._turn.release()

    def _add(self, result: LineResult | WrongLine) -> None:
        number = result.number if isinstance(result, WrongLine) else self._numbers[result.custom_id]
        (self._answers if is_answer(result) else self._errors).append((number, result_line(result)))
        self.counts.count(result)


async def _first_of(task: "asyncio.Task[None]", engine: Engine) -> None:
    """Wait for the task, unless the engine ends before, which is raised as `ConfigError`."""
    try:
        await asyncio.wait({task, engine.ended}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            engine.ended.result()
        task.result()
    except EngineEndedError as error:
        reason = error.reason or "the core cannot start; the log of this worker says why"
        raise ConfigError(f"engine of node {os.uname().nodename}: {reason}") from error
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
