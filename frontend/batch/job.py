"""One batch job from its input to its two output files: what is done stays done, however often it is ended and begun.

    with BatchJob(files, ...) as job:      # opens and locks the files, and learns from them what is done
        await job.run(state)               # answers the rest

Used by `fast_inference run-batch`; `counts` may be read at any time. Invariant: a line is counted as done when it is in
its file. Next: `line_source.py`, `executor.py`, `output_file.py`.
"""

import asyncio
import os
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from frontend.access import Caller
from frontend.batch.checkpoint import Checkpoint
from frontend.batch.executor import BatchExecutor
from frontend.batch.input_file import InputFile
from frontend.batch.ledger import LineLedger
from frontend.batch.line_source import LineSource, Reorder
from frontend.batch.lines import WrongLine
from frontend.batch.output_file import OutputFile
from frontend.batch.result_lines import LineResult, is_answer, result_line
from frontend.state import FrontendState
from ipc.errors import ConfigError

SYNC_INTERVAL_S = 0.9
SYNC_LINES = 100
CHECKPOINT_INTERVAL_S = 0.1
_CHECKPOINT_SHARE = 0.02
"""Of the time, that checkpoints may take where they are large."""
LINE_ROOM_BYTES = 2**16
"""For what a line has beside its body."""


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The files of a job."""

    input: Path
    output: Path
    errors: Path
    """Lines that are no requests, and requests that were refused or failed; made when there is one."""


@dataclass(slots=True)
class JobCounts:
    """How far a job is."""

    num_resumed: int = 0
    """Lines that were done in earlier runs, whatever became of them."""
    num_ok: int = 0
    """Answers in the output file, those of earlier runs too."""
    num_failed: int = 0
    """The same of the error file."""
    num_prompt_tokens: int = 0
    """Of the answers of this run, as `usage` has them."""
    num_output_tokens: int = 0
    seconds: float = 0.0
    """That this run took, from when the engine was ready; known when it has ended."""

    @property
    def num_done(self) -> int:
        """Lines that are done."""
        return self.num_ok + self.num_failed

    def count(self, result: LineResult | WrongLine) -> None:
        """One more line is done; its answer may tell of its tokens."""
        if not is_answer(result):
            self.num_failed += 1
            return
        self.num_ok += 1
        usage = result.body.get("usage")
        if isinstance(usage, dict):  # responses have other names for them than chat completions
            self.num_prompt_tokens += usage.get("prompt_tokens") or usage.get("input_tokens") or 0
            self.num_output_tokens += usage.get("completion_tokens") or usage.get("output_tokens") or 0


class BatchJob:
    """A job; a context manager that owns its files."""

    def __init__(
        self,
        files: JobFiles,
        caller: Caller,
        *,
        max_body_bytes: int,
        max_in_flight: int | None = None,
        reorder: Reorder = Reorder.PREFIX,
        slots: asyncio.Semaphore | None = None,
    ) -> None:
        """Open the files, and read what earlier runs have done. `slots` are for `BatchExecutor`.

        Raises:
            ConfigError: a file cannot be used, or another job uses it.
        """
        self._files = files
        self._caller = caller
        self._max_in_flight = max_in_flight
        self._slots = slots
        self._ledger = LineLedger()
        self.counts = JobCounts()
        self._has_many_unsynced = asyncio.Event()
        self._syncing = threading.Lock()
        with ExitStack() as exits:
            self._input = exits.enter_context(InputFile(files.input, max_line_bytes=max_body_bytes + LINE_ROOM_BYTES))
            _check_distinct(files)
            self._output = exits.enter_context(OutputFile(files.output))
            self._output.recover(self._ledger.note_done)
            self._errors: OutputFile | None = None
            if files.errors.exists():
                self._open_errors(exits)
            self._source = LineSource(self._input, self._ledger, reorder)
            self._checkpoint = Checkpoint(files.output) if self._output.is_regular else None
            self._exits = exits.pop_all()
        self.counts.num_ok, self.counts.num_failed = self._ledger.num_ok, self._ledger.num_failed
        self.counts.num_resumed = self.counts.num_done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._exits.close()

    def has_lines_left(self) -> bool:
        """Whether there is anything to do; may read far into the input.

        Raises:
            ConfigError: the input cannot be read.
        """
        return self._source.fill()

    async def run(self, state: FrontendState) -> None:
        """Answer all lines that are not done; what is in the files when it ends, however it does, is on the disk.

        Raises:
            ConfigError: a file cannot be read or written, or the engine serves another model now.
        """
        self._metrics = state.metrics
        beginnings = self._checkpoint.load() if self._checkpoint is not None else {}
        executor = BatchExecutor(state, self._caller, self._max_in_flight, beginnings, self._slots)
        working = asyncio.create_task(executor.run(self._source, self._write))
        keeping = [asyncio.create_task(self._keep_syncing()), asyncio.create_task(self._keep_checkpoints(executor))]
        try:
            await asyncio.wait({working, *keeping}, return_when=asyncio.FIRST_COMPLETED)
            for task in (working, *keeping):
                if task.done():
                    task.result()
        finally:
            if executor.began_at is not None:
                self.counts.seconds = time.monotonic() - executor.began_at
            beginnings = executor.beginnings()
            for task in (working, *keeping):
                task.cancel()
            await asyncio.gather(working, *keeping, return_exceptions=True)
            self._sync()
            if self._checkpoint is not None:
                self._checkpoint.save(beginnings)
        if self._checkpoint is not None:
            self._checkpoint.remove()

    def _write(self, result: LineResult | WrongLine) -> None:
        if is_answer(result):
            self._output.append(result_line(result))
            self._metrics.count("batch_lines_total", "ok")
        else:
            errors = self._errors or self._open_errors(self._exits)
            errors.append(result_line(result))
            self._metrics.count("batch_lines_total", "failed")
        self.counts.count(result)
        if self._num_unsynced >= SYNC_LINES:
            self._has_many_unsynced.set()

    @property
    def _num_unsynced(self) -> int:
        return self._output.num_unsynced + (self._errors.num_unsynced if self._errors is not None else 0)

    async def _keep_syncing(self) -> None:
        while True:
            try:
                async with asyncio.timeout(SYNC_INTERVAL_S):
                    await self._has_many_unsynced.wait()
            except TimeoutError:
                pass
            self._has_many_unsynced.clear()
            await asyncio.to_thread(self._sync)

    async def _keep_checkpoints(self, executor: BatchExecutor) -> None:
        interval_s = CHECKPOINT_INTERVAL_S
        while True:
            await asyncio.sleep(interval_s)
            began_at = time.perf_counter()
            if self._checkpoint is not None:
                self._checkpoint.save(executor.beginnings())
            interval_s = max(CHECKPOINT_INTERVAL_S, (time.perf_counter() - began_at) / _CHECKPOINT_SHARE)

    def _sync(self) -> None:
        with self._syncing:  # whoever comes second waits for the first
            self._output.sync()
            if self._errors is not None:
                self._errors.sync()

    def _open_errors(self, exits: ExitStack) -> OutputFile:
        self._errors = exits.enter_context(OutputFile(self._files.errors))
        self._errors.recover(self._ledger.note_done)
        return self._errors


def _check_distinct(files: JobFiles) -> None:
    """Raise `ConfigError` where two of the files are one."""
    named = (("input", files.input), ("output", files.output), ("error", files.errors))
    seen: dict[str, str] = {}
    for name, path in named:
        real = os.path.realpath(path)
        if real in seen:
            raise ConfigError(f"{path} cannot be both the {seen[real]} file and the {name} file")
        seen[real] = name
