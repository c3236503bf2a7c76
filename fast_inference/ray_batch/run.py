"""Runs a batch job on many machines from the command line: plan, output folder, Ray Data, progress, and the end.

Ray Data hands each block that is not done to a worker, gives it to another one when a node is lost, and brings back
what was counted; answers go from the workers to the output folder and not through here. What is done is told by that
folder alone. Exit statuses are those of `fast_inference/batch/run.py`. Next: `plan.py`, `worker.py`, `parts.py`.
"""

import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fast_inference.batch.progress import JobProgress
from fast_inference.bench.interruption import Interrupted, Interruption
from fast_inference.progress import StartProgress
from fast_inference.ray_batch.cluster import WorkerShape, actor_pool, joined_ray, worker_shape
from fast_inference.ray_batch.parts import JobFolder, OutputFormat, PartCounts
from fast_inference.ray_batch.plan import Block, manifest, plan_blocks
from fast_inference.ray_batch.worker import (
    BLOCK_COLUMN,
    COUNTS_COLUMN,
    FAILURE_COLUMN,
    NUM_CALLS,
    BatchWorker,
    WorkerJob,
)
from fast_inference.ray_executor.fleet import check_installed
from fast_inference.ray_executor.fleet_spec import paths_anywhere
from fast_inference.settings import Settings, served_names
from frontend.batch.job import JobCounts
from frontend.batch.line_source import Reorder
from ipc.config import SECRET_SETTINGS
from ipc.errors import ConfigError

_WINDOW_S = 120.0
"""Parts come one by one, so that speeds mean something over many of them only."""


@dataclass(frozen=True, slots=True)
class RayOptions:
    """What a job is asked to do."""

    input: Path
    output: Path
    output_format: OutputFormat = OutputFormat.JSONL
    address: str | None = None
    cores: tuple[int, int] | None = None
    """Fewest and most workers; None for as many as the cluster has room for."""
    num_cpus: float | None = None
    num_gpus: float | None = None
    lines_per_part: int = 1000
    attach: str | None = None
    max_in_flight: int | None = None
    reorder: Reorder = Reorder.PREFIX


def run_ray_batch(options: RayOptions, settings: Settings) -> int:
    """Run the job; returns the exit status. `settings` are those of the workers' cores.

    Raises:
        ConfigError: the job cannot begin or go on.
        Interrupted: a signal came before the job began.
    """
    check_installed()
    if options.output.resolve().is_relative_to(options.input.resolve()):
        raise ConfigError(f"{options.output} is in {options.input}: its parts would be lines of the input")
    with Interruption(), JobFolder(options.output, options.output_format) as folder:
        blocks = _plan(options, settings)
        done = folder.recover(manifest(blocks, options.output_format), len(blocks))
        counts = JobCounts(
            num_ok=sum(part.num_ok for part in done.values()), num_failed=sum(part.num_failed for part in done.values())
        )
        counts.num_resumed = counts.num_done
        left = [block for block in blocks if block.index not in done]
        counted: set[int] = set()
        try:
            if left:
                num_lines = sum(block.num_lines for block in blocks)
                with closing(_answered(options, settings, left, num_lines, counts)) as parts:
                    for part in parts:
                        counted.add(part.index)
                        _add(counts, part)
        except Interrupted as interrupted:
            for block in left:  # parts of which no worker has told any more
                unheard = None if block.index in counted else folder.counts(block.index)
                if unheard is not None:
                    _add(counts, unheard)
            _say(f"stopped: {_done(counts)}; the same command goes on with the rest")
            return interrupted.exit_code
        except ConfigError as error:
            raise ConfigError(f"{error.message} ({_done(counts)} and kept)") from error
        if missing := [block for block in left if folder.counts(block.index) is None]:
            raise ConfigError(f"{len(missing)} parts are not done ({_done(counts)} and kept)")
        _say(f"complete: {_done(counts)}" + f" (see {options.output / 'errors'})" * (counts.num_failed > 0))
        if counts.num_output_tokens:
            rate = counts.num_output_tokens / max(counts.seconds, 1e-3)
            _say(f"{counts.num_output_tokens:,} output tokens in {counts.seconds:.1f} s: {rate:,.1f} tokens/s")
    return 0


def _plan(options: RayOptions, settings: Settings) -> list[Block]:
    with StartProgress() as progress:
        progress(f"reading {options.input}")
        return list(plan_blocks(options.input, options.lines_per_part, settings.max_body_bytes))


def _answered(
    options: RayOptions, settings: Settings, left: Sequence[Block], num_lines: int, counts: JobCounts
) -> Generator[PartCounts, None, None]:
    """Have the blocks answered; gives what each part holds, when it is done. `counts` is shown meanwhile."""
    with StartProgress() as progress:
        progress("joining Ray")
        with joined_ray(options.address), Interruption():  # Ray has put a handler of its own in the place of ours
            shape = _shape(options)
            progress.close()
            _say(f"{len(left):,} parts to do, {shape}")
            began_at = time.monotonic()
            try:
                with _shown(counts, num_lines):
                    yield from _parts(left, _worker_job(options, settings, shape), shape)
            finally:
                counts.seconds = time.monotonic() - began_at


def _parts(left: Sequence[Block], job: WorkerJob, shape: WorkerShape) -> Iterator[PartCounts]:
    """What each part holds, when it is done.

    Raises:
        ConfigError: a worker says that the job cannot go on, or Ray does.
    """
    import ray
    import ray.data

    rows = [{BLOCK_COLUMN: block.to_json().decode()} for block in left]
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        BatchWorker, batch_size=1, fn_constructor_args=(job,), **actor_pool(shape, NUM_CALLS)
    )
    try:
        for batch in data.iter_batches(batch_size=1, prefetch_batches=0):  # each as soon as it is there
            for counts, failure in zip(batch[COUNTS_COLUMN], batch[FAILURE_COLUMN], strict=True):
                if failure:
                    raise ConfigError(failure)
                yield PartCounts.from_json(counts)
    except ray.exceptions.RayError as error:
        raise ConfigError(f"Ray gives up: {str(error).strip().splitlines()[-1]}") from error


def _shape(options: RayOptions) -> WorkerShape:
    if options.attach is None:
        return worker_shape(options.cores, options.num_cpus, options.num_gpus)
    return worker_shape(options.cores, options.num_cpus or 1, options.num_gpus or 0)


def _worker_job(options: RayOptions, settings: Settings, shape: WorkerShape) -> WorkerJob:
    """With paths and names that mean the same on every node."""
    names = served_names(settings)
    changes: dict[str, Any] = {"served_model_name": names, "executor": "local", "cores": 1}
    if settings.chat_template is not None:
        changes["chat_template"] = str(Path(settings.chat_template).expanduser().absolute())
    if settings.threads is None and not shape.num_gpus:
        changes["threads"] = max(1, int(shape.num_cpus))
    values = settings.model_copy(update=changes).model_dump(mode="json", exclude={"config", *SECRET_SETTINGS})
    values |= paths_anywhere(values)
    return WorkerJob(
        options.input.absolute(),
        options.output.absolute(),
        options.output_format,
        values,
        _attached_anywhere(options.attach),
        settings.max_body_bytes,
        options.max_in_flight,
        options.reorder,
        shape.memory_share,
    )


def _attached_anywhere(target: str | None) -> str | None:
    """A run dir as it is named on every node; a URL as it is."""
    return target if target is None or "://" in target else str(Path(target).expanduser().absolute())


@contextmanager
def _shown(counts: JobCounts, num_lines: int) -> Iterator[None]:
    """Say how far the job is, again and again, in a thread."""
    is_over = threading.Event()
    with JobProgress(counts, window_s=_WINDOW_S) as shown:
        shown.num_total = num_lines

        def show() -> None:
            while not is_over.wait(shown.interval_s):
                shown.show()

        thread = threading.Thread(target=show, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def _add(counts: JobCounts, part: PartCounts) -> None:
    counts.num_ok += part.num_ok
    counts.num_failed += part.num_failed
    counts.num_prompt_tokens += part.num_prompt_tokens
    counts.num_output_tokens += part.num_output_tokens


def _done(counts: JobCounts) -> str:
    resumed = f", {counts.num_resumed:,} of them before" if counts.num_resumed else ""
    return f"{counts.num_done:,} lines are done{resumed}, {counts.num_failed:,} of these failed"


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
