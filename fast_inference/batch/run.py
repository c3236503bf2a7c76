"""Runs one batch job from the command line: files, engine, progress, and what is said in the end.

Exit statuses: 0 every line of the input is in one of the two output files, 1 the job cannot begin or go on (one line
says why), 130 and 143 it was told to stop. In the last cases what is done is kept, and the same command goes on.
Next: `frontend/batch/job.py`, `engine.py`.
"""

import asyncio
import os
import sys
import threading
import uuid
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from fast_inference.batch.engine import (
    Engine,
    EngineEndedError,
    attached_engine,
    attached_run_dir,
    own_engine,
)
from fast_inference.batch.progress import JobProgress
from fast_inference.bench.interruption import Interrupted, Interruption
from fast_inference.model_store import resolve_model
from fast_inference.progress import StartProgress
from fast_inference.settings import Settings, served_names
from frontend.access import Caller
from frontend.batch.input_file import count_lines
from frontend.batch.input_order import put_in_order
from frontend.batch.job import LINE_ROOM_BYTES, BatchJob, JobCounts, JobFiles
from frontend.batch.line_source import Reorder
from ipc.config import FrontendConfig, load_section
from ipc.endpoints import RunDir
from ipc.errors import ConfigError
from ipc.exit_codes import EXIT_CONFIG_ERROR
from ipc.process import raise_descriptor_limit


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a job is asked to do."""

    files: JobFiles
    attach: str | None = None
    """Run dir or URL of a server; None for a core of one's own."""
    max_in_flight: int | None = None
    reorder: Reorder = Reorder.PREFIX
    is_ordered: bool = False
    """The output is put in the order of the input when the job is complete."""


def run_batch(options: RunOptions, settings: Settings) -> int:
    """Run the job; returns the exit status. `settings` are those of a core of one's own.

    Raises:
        ConfigError: the job cannot begin or go on.
        Interrupted: a signal came before the job began.
    """
    raise_descriptor_limit()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one text at a time; the core needs the processors
    with Interruption() as interruption, StartProgress() as progress:
        server = attached_run_dir(options.attach) if options.attach is not None else None
        if server is not None:
            max_body_bytes = _config_of(server).max_body_bytes
        else:
            max_body_bytes = settings.max_body_bytes
            settings = _resolved(settings, progress)
        caller = Caller(f"batch:{uuid.uuid4().hex}")  # its flow: jobs share what batch gets of a core
        with BatchJob(
            options.files,
            caller,
            max_body_bytes=max_body_bytes,
            max_in_flight=options.max_in_flight,
            reorder=options.reorder,
        ) as job:
            try:
                if job.has_lines_left():
                    connecting = _engine(server, settings, progress)
                    interruption.run(lambda: _run(job, options, connecting, progress))
            except Interrupted as interrupted:
                _say(f"stopped: {_done(job.counts)}; the same command goes on with the rest")
                return interrupted.exit_code
            except EngineEndedError as error:
                if error.reason is not None:
                    _say(f"error: {error.reason}")
                _say(f"{_done(job.counts)}; the same command goes on with the rest")
                return EXIT_CONFIG_ERROR
            except ConfigError as error:
                raise ConfigError(f"{error.message} ({_done(job.counts)} and kept)") from error
            if options.is_ordered:
                put_in_order(options.files.input, options.files.output, max_line_bytes=max_body_bytes + LINE_ROOM_BYTES)
            _say(f"complete: {_done(job.counts)}" + (f" (see {options.files.errors})" * (job.counts.num_failed > 0)))
            if job.counts.num_output_tokens:
                _say(_speed(job.counts))
    return 0


def _engine(server: RunDir | None, settings: Settings, progress: StartProgress) -> AbstractAsyncContextManager[Engine]:
    return attached_engine(server) if server is not None else own_engine(settings, progress)


async def _run(
    job: BatchJob, options: RunOptions, connecting: AbstractAsyncContextManager[Engine], progress: StartProgress
) -> None:
    async with connecting as engine:
        working = asyncio.create_task(job.run(engine.state))
        showing = asyncio.create_task(_show(job.counts, options.files.input, engine, progress))
        try:
            await asyncio.wait({working, showing, engine.ended}, return_when=asyncio.FIRST_COMPLETED)
            for awaited in (working, showing, engine.ended):
                if awaited.done():
                    awaited.result()
        finally:
            for task in (working, showing):
                task.cancel()
            await asyncio.gather(working, showing, return_exceptions=True)
            progress.close()


async def _show(counts: JobCounts, input_path: Path, engine: Engine, progress: StartProgress) -> None:
    await engine.state.became_ready.wait()
    progress.close()
    is_over = threading.Event()
    counting = asyncio.create_task(asyncio.to_thread(count_lines, input_path, is_over))
    try:
        with JobProgress(counts) as shown:
            while True:
                await asyncio.sleep(shown.interval_s)
                if shown.num_total is None and counting.done():
                    shown.num_total = counting.result()
                shown.show()
    finally:
        is_over.set()
        await asyncio.gather(counting, return_exceptions=True)


def _resolved(settings: Settings, progress: StartProgress) -> Settings:
    """With the folder of the model, and the names under which lines may ask for it."""
    names = served_names(settings)
    progress(f"looking for the model {settings.model}")
    return settings.model_copy(
        update={"model": resolve_model(settings.model, progress, rope=settings.rope), "served_model_name": names}
    )


def _config_of(server: RunDir) -> FrontendConfig:
    if not server.has_launcher():
        raise ConfigError(f"no server runs on {server.path}")
    return load_section(server.config_file, FrontendConfig)


def _done(counts: JobCounts) -> str:
    resumed = f", {counts.num_resumed:,} of them before" if counts.num_resumed else ""
    return f"{counts.num_done:,} lines are done{resumed}, {counts.num_failed:,} of these failed"


def _speed(counts: JobCounts) -> str:
    rate = counts.num_output_tokens / max(counts.seconds, 1e-3)
    return f"{counts.num_output_tokens:,} output tokens in {counts.seconds:.1f} s: {rate:,.1f} tokens/s"


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
