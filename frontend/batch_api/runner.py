"""Runs the batches of the API: validates, answers and ends them, whatever frontend created them.

It looks into the database a few times a second. One batch of each key runs at a time, the oldest, and some keys side by
side; in the core, keys share what batch requests get (docs/engine.md). A disk that is full, or anything else that stops
a job, makes it wait: the reason is shown in the batch, and it goes on by itself.
Invariants: a batch has one task at a time, which does what its status asks for; a task that is cancelled, or killed
with the process, is begun again where it was. Next: `validation.py`, `frontend/batch/job.py`, `results.py`.
"""

import asyncio
import errno
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from frontend.access import Caller
from frontend.batch.job import LINE_ROOM_BYTES, BatchJob, JobCounts
from frontend.batch_api.records import BatchRecord, BatchStatus, LineProblem
from frontend.batch_api.results import check_room, files_of, give_up_rest, publish_results
from frontend.batch_api.state_dir import StateDir
from frontend.batch_api.store import StateStore
from frontend.batch_api.store_thread import StoreThread
from frontend.batch_api.validation import check_input
from frontend.embedder import num_at_once
from frontend.errors import StorageError
from frontend.state import FrontendState
from ipc.errors import ConfigError, EngineUnavailableError

log = logging.getLogger(__name__)

TICK_S = 0.2
IDLE_S = 10.0
"""Without a batch for so long, the process ends."""
MAX_RUNNING = 8
"""Batches of different keys."""
PROGRESS_INTERVAL_S = 0.5
RETRY_S = 2.0
DISK_FULL = "disk_full"
"""Code of a batch that waits for room."""
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class _Work:
    """What is done for a batch now."""

    status: BatchStatus
    """That it was begun for."""
    key_id: str
    task: asyncio.Task[None]
    counts: JobCounts | None = None
    """Of a job that runs."""
    noted: tuple[int, int] = (0, 0)
    noted_at: float = 0.0

    def stop(self) -> None:
        """Cancel it, once: a second time would cut off how it ends."""
        if not self.task.cancelling():
            self.task.cancel()


class BatchRunner:
    """Made for one call of `run`."""

    def __init__(self, state: FrontendState, state_dir: StateDir, store: StoreThread) -> None:
        self._state = state
        self._state_dir = state_dir
        self._store = store
        self._max_line_bytes = state.config.max_body_bytes + LINE_ROOM_BYTES
        self._works: dict[str, _Work] = {}
        self._retries: dict[str, tuple[BatchStatus, float]] = {}
        """When what the status of a batch asks for is tried again."""
        self._slots = asyncio.Semaphore(0)
        """What the lines of all batches share, so that together they are no more in the engine than those of one."""
        self._num_slots = 0
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Work until nothing has been left to do for `IDLE_S`, or until cancelled: then what runs is stopped and kept.

        Raises:
            ConfigError: the database is of a newer version.
        """
        self._state_dir.take_reserve()
        idle_since = time.monotonic()
        try:
            while time.monotonic() - idle_since < IDLE_S:
                try:
                    if await self._tick():
                        idle_since = time.monotonic()
                    await self._sleep()
                except StorageError:
                    self._state_dir.give_reserve()
                    idle_since = time.monotonic()
                    await asyncio.sleep(RETRY_S)
        finally:
            for work in self._works.values():
                work.stop()
            await asyncio.gather(*(work.task for work in self._works.values()), return_exceptions=True)

    async def _sleep(self) -> None:
        """Until the next look, or until something is done."""
        try:
            async with asyncio.timeout(TICK_S):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _tick(self) -> bool:
        """Do what the database asks for; False if there was nothing."""
        self._add_slots()
        now = int(time.time())
        await self._store.call(lambda database: _remove_expired(database, self._state_dir, now))
        batches = await self._store.call(lambda database: database.unfinished())
        unfinished = {batch.id for batch in batches}
        for batch_id, work in list(self._works.items()):
            if work.task.done():
                del self._works[batch_id]
            elif batch_id not in unfinished:
                work.stop()
        self._retries = {batch_id: retry for batch_id, retry in self._retries.items() if batch_id in unfinished}
        for batch in batches:
            current, is_late = self._works.get(batch.id), batch.expires_at <= now
            if current is None:
                self._begin(batch, is_late=is_late)
            elif batch.status is not current.status or (current.counts is not None and is_late):
                current.stop()
            elif current.counts is not None:
                await self._note_progress(batch, current, current.counts)
        return bool(batches)

    def _add_slots(self) -> None:
        """As many as there is room for in the cores of now. When cores go, what is too much is refused, and waits."""
        num_more = num_at_once(self._state.client.capacity) - self._num_slots
        for _ in range(num_more):
            self._num_slots += 1
            self._slots.release()

    def _begin(self, batch: BatchRecord, *, is_late: bool) -> None:
        """Begin what comes next for a batch, if it is its turn."""
        status, retry_at = self._retries.get(batch.id, (batch.status, 0.0))
        if status is batch.status and retry_at > time.monotonic():
            return
        if batch.status is BatchStatus.VALIDATING:
            if any(work.status is BatchStatus.VALIDATING for work in self._works.values()):
                return
            do = self._validate
        elif batch.status is not BatchStatus.IN_PROGRESS:
            do = self._end
        elif is_late:
            do = self._expire
        else:
            running = [work.key_id for work in self._works.values() if work.status is BatchStatus.IN_PROGRESS]
            if batch.key_id in running or len(running) >= MAX_RUNNING:
                return
            do = self._answer
        task = asyncio.create_task(self._guard(batch, do))
        task.add_done_callback(lambda _: self._wake.set())
        self._works[batch.id] = _Work(batch.status, batch.key_id, task)

    async def _guard(self, batch: BatchRecord, do: Callable[[BatchRecord], Awaitable[None]]) -> None:
        """What goes wrong with one batch harms no other, and is tried again."""
        try:
            await do(batch)
        except (ConfigError, StorageError, EngineUnavailableError, OSError) as error:
            problem = _problem_of(error)
            level = logging.DEBUG if batch.problems == [problem] else logging.WARNING
            log.log(level, "%s waits: %s", batch.id, error)
        except Exception:
            log.exception("%s failed", batch.id)
            problem = LineProblem("internal_error", "The server failed on this batch; it is tried again.")
        else:
            return
        self._retries[batch.id] = batch.status, time.monotonic() + RETRY_S
        if problem.code == DISK_FULL:
            self._state_dir.give_reserve()
        if batch.problems != [problem]:
            with suppress(StorageError):  # logged; it is told with the next try
                await self._store.call(lambda database: database.note_problem(batch.id, problem))

    # --- what a batch needs, by its status ---

    async def _validate(self, batch: BatchRecord) -> None:
        path, stop = files_of(self._state_dir, batch.id).input, threading.Event()
        report = await _in_thread(
            lambda: check_input(path, batch.endpoint, max_line_bytes=self._max_line_bytes, stop=stop), stop.set
        )
        now, num_total = int(time.time()), report.num_lines
        if report.problems:
            await self._store.call(
                lambda database: database.fail(batch.id, report.problems, num_total=num_total, now=now)
            )
            await _in_thread(lambda: self._state_dir.remove_job(batch.id))
        else:
            await self._store.call(
                lambda database: database.begin(batch.id, num_total=num_total, model=report.model, now=now)
            )

    async def _answer(self, batch: BatchRecord) -> None:
        files = files_of(self._state_dir, batch.id)
        await _in_thread(lambda: check_room(files))
        await self._state.became_ready.wait()
        self._add_slots()
        max_body_bytes = self._state.config.max_body_bytes
        with ExitStack() as exits:
            make_job = partial(BatchJob, files, self._caller(batch), max_body_bytes=max_body_bytes, slots=self._slots)
            job = await _in_thread(lambda: exits.enter_context(make_job()))
            work = self._works[batch.id]
            work.counts, work.noted = job.counts, (job.counts.num_ok, job.counts.num_failed)
            await job.run(self._state)
            num_ok, num_failed = job.counts.num_ok, job.counts.num_failed
        await self._store.call(lambda database: database.note_progress(batch.id, num_ok, num_failed))
        await self._finalize(batch, BatchStatus.COMPLETED)

    async def _expire(self, batch: BatchRecord) -> None:
        files = files_of(self._state_dir, batch.id)
        message = "This request could not be executed before the completion window expired."
        await _in_thread(lambda: give_up_rest(files, "batch_expired", message, max_line_bytes=self._max_line_bytes))
        await self._finalize(batch, BatchStatus.EXPIRED)

    async def _finalize(self, batch: BatchRecord, outcome: BatchStatus) -> None:
        now = int(time.time())
        await self._store.call(lambda database: database.finalize(batch.id, outcome, now))

    async def _end(self, batch: BatchRecord) -> None:
        now = int(time.time())
        results = await _in_thread(lambda: publish_results(self._state_dir, batch, now))
        ended = replace(batch, num_completed=results.num_completed, num_failed=results.num_failed)
        await self._store.call(
            lambda database: database.end(
                ended, output=results.output, errors=results.errors, usage=results.usage, now=now
            )
        )
        await _in_thread(lambda: self._state_dir.remove_job(batch.id))
        log.info("%s has ended", batch.id)

    def _caller(self, batch: BatchRecord) -> Caller:
        """The flow in the core: the key; without keys, each batch is one."""
        if not batch.key_id:
            return Caller(f"batch:{batch.id}")
        return Caller(batch.key_id, has_own_cache=self._state.config.isolate_cache_by_key)

    async def _note_progress(self, batch: BatchRecord, work: _Work, counts: JobCounts) -> None:
        reached, now = (counts.num_ok, counts.num_failed), time.monotonic()
        if reached == work.noted or now - work.noted_at < PROGRESS_INTERVAL_S:
            return
        work.noted, work.noted_at = reached, now
        await self._store.call(lambda database: database.note_progress(batch.id, *reached))
        if batch.problems:
            await self._store.call(lambda database: database.note_problem(batch.id, None))
            self._state_dir.take_reserve()


def _remove_expired(database: StateStore, state_dir: StateDir, now: int) -> None:
    for file_id in database.expired_file_ids(now):
        database.remove_file(file_id, None)
        state_dir.remove_file(file_id)


def _problem_of(error: Exception) -> LineProblem:
    """What is shown in the batch: no path, no trace."""
    reason = error.__cause__ if isinstance(error, ConfigError) else error
    if isinstance(reason, OSError) and reason.errno in _FULL_DISK:
        return LineProblem(DISK_FULL, "The disk of the server is full; the batch goes on when there is room.")
    if isinstance(reason, StorageError) and reason.code == "storage_full":
        return LineProblem(DISK_FULL, "The disk of the server is full; the batch goes on when there is room.")
    if isinstance(reason, OSError | StorageError):
        return LineProblem("storage_error", "The server cannot read or write its files; the batch is tried again.")
    return LineProblem("interrupted", "The batch was interrupted; it is tried again.")


async def _in_thread(work: Callable[[], ResultT], on_cancel: Callable[[], None] = lambda: None) -> ResultT:
    """Run it in a thread, which cannot be stopped: a task that is cancelled waits for its end."""
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        on_cancel()
        await asyncio.wait([working])
        raise
