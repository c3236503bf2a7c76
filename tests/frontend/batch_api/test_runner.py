"""The runner in this process, on a core in another one: every way in which a batch ends, and who comes when."""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from frontend.batch_api.records import BatchRecord, BatchStatus, FileRecord
from frontend.batch_api.results import files_of
from frontend.batch_api.runner import BatchRunner
from frontend.batch_api.state_dir import StateDir
from frontend.batch_api.store_thread import StoreThread
from frontend.embedder import num_at_once
from frontend.state import FrontendState
from ipc.client import EngineClient
from ipc.config import FrontendConfig
from ipc.messages import ClientRole
from tests.frontend.batch_api.test_store import make_state_dir
from tests.processes import CoreProcess, core_process

ENDPOINT = "/v1/completions"


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreProcess]:
    with core_process(tmp_path_factory.mktemp("run"), num_blocks=256, fake_step_ms=5) as core:
        yield core


def line(custom_id: str, url: str = ENDPOINT, **body: Any) -> bytes:
    values = {"model": "fake", "prompt": custom_id, "max_tokens": 5, **body}
    return orjson.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": values}) + b"\n"


class Bench:
    """A state dir with batches in it."""

    def __init__(self, state: FrontendState, state_dir: StateDir, store: StoreThread) -> None:
        self.state = state
        self.state_dir = state_dir
        self.store = store

    async def add(
        self, batch_id: str, *lines: bytes, key_id: str = "", expires_in_s: int = 600, before: bytes = b""
    ) -> None:
        """`before` is what an earlier run has left of the output."""
        file_id, now = f"file-{batch_id}", int(time.time())
        content = b"".join(lines)
        self.state_dir.file(file_id).write_bytes(content)
        self.state_dir.begin_job(batch_id, file_id)
        files_of(self.state_dir, batch_id).output.write_bytes(before)
        record = BatchRecord(batch_id, key_id, ENDPOINT, file_id, now, now + expires_in_s)
        file = FileRecord(file_id, key_id, now, len(content), "in.jsonl", "batch")
        await self.store.call(lambda database: database.add_file(file))
        assert await self.store.call(lambda database: database.add_batch(record, 10))

    async def get(self, batch_id: str) -> BatchRecord:
        record = await self.store.call(lambda database: database.batch(batch_id, None))
        assert record is not None
        return record

    async def reaches(self, batch_id: str, is_so: Callable[[BatchRecord], bool]) -> BatchRecord:
        async with asyncio.timeout(20):
            while True:
                record = await self.get(batch_id)
                if is_so(record):
                    return record
                await asyncio.sleep(0.02)

    async def ends(self, batch_id: str) -> BatchRecord:
        return await self.reaches(
            batch_id, lambda record: record.status in ("completed", "failed", "expired", "cancelled")
        )

    def results(self, file_id: str | None) -> dict[str, Any]:
        """By `custom_id`, each of which is there once."""
        assert file_id is not None
        values = [orjson.loads(raw) for raw in self.state_dir.file(file_id).read_bytes().splitlines()]
        results = {value["custom_id"]: value for value in values}
        assert len(results) == len(values)
        return results


def work(core: CoreProcess, tmp_path: Path, conversation: Callable[[Bench], Awaitable[None]], **config: Any) -> None:
    """Run a runner beside the conversation."""

    async def run() -> None:
        state_dir = make_state_dir(tmp_path)
        store = StoreThread(state_dir)
        client = EngineClient(core.run_dir.core_socket, name="batch-runner", role=ClientRole.BATCH)
        settings = FrontendConfig(state_dir=state_dir.path, **config)
        state = FrontendState(settings, client, created_at=1, config_file=core.run_dir.config_file)
        await state.start()
        bench = Bench(state, state_dir, store)
        running = asyncio.create_task(BatchRunner(state, state_dir, StoreThread(state_dir)).run())
        try:
            talking = asyncio.ensure_future(conversation(bench))
            await asyncio.wait([running, talking], return_when=asyncio.FIRST_COMPLETED)
            assert talking.done()
            talking.result()
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            await state.close()
            store.close()

    asyncio.run(run())


def test_answers_and_failures_go_into_files_of_their_own(core, tmp_path):
    async def conversation(bench):
        await bench.add("b", line("a"), line("wrong", max_tokens=-1), line("c"))
        record = await bench.ends("b")
        assert (record.status, record.model) == ("completed", "fake")
        assert (record.num_total, record.num_completed, record.num_failed) == (3, 2, 1)
        assert set(bench.results(record.output_file_id)) == {"a", "c"}
        failure = bench.results(record.error_file_id)["wrong"]["response"]
        assert (failure["status_code"], failure["body"]["error"]["param"]) == (400, "max_tokens")
        usages = [result["response"]["body"]["usage"] for result in bench.results(record.output_file_id).values()]
        assert record.usage.num_output_tokens == sum(usage["completion_tokens"] for usage in usages)
        assert record.usage.num_input_tokens == sum(usage["prompt_tokens"] for usage in usages)

    work(core, tmp_path, conversation)


def test_a_batch_without_failures_has_no_error_file(core, tmp_path):
    async def conversation(bench):
        await bench.add("b", line("a"))
        record = await bench.ends("b")
        assert (record.status, record.error_file_id) == ("completed", None)

    work(core, tmp_path, conversation)


def test_every_wrong_line_is_named_and_nothing_is_run(core, tmp_path):
    async def conversation(bench):
        await bench.add("b", line("a"), b"{\n", line("a"), line("x", "/v1/embeddings"), *([b"[]\n"] * 200))
        record = await bench.ends("b")
        assert (record.status, record.num_total, record.output_file_id) == ("failed", 204, None)
        assert [(problem.line, problem.code) for problem in record.problems[:3]] == [
            (2, "invalid_json"),
            (3, "duplicate_custom_id"),
            (4, "invalid_url"),
        ]
        assert len(record.problems) == 101
        assert record.problems[-1].message == "103 more lines are wrong."

    work(core, tmp_path, conversation)


def test_an_empty_input_is_wrong(core, tmp_path):
    async def conversation(bench):
        await bench.add("b", b"\n")
        record = await bench.ends("b")
        assert (record.status, record.problems[0].code) == ("failed", "empty_file")

    work(core, tmp_path, conversation)


def test_a_cancelled_batch_gives_out_what_is_done(core, tmp_path):
    async def conversation(bench):
        await bench.add(
            "b",
            *(line(f"short-{n}") for n in range(3)),
            *(line(f"z{n}", max_tokens=1500, ignore_eos=True) for n in range(50)),
        )
        await bench.reaches("b", lambda record: record.num_completed == 3)
        await bench.store.call(lambda database: database.cancel("b", 5))
        record = await bench.ends("b")
        assert (record.status, record.num_completed, record.num_failed) == ("cancelled", 3, 0)
        assert set(bench.results(record.output_file_id)) == {"short-0", "short-1", "short-2"}

    work(core, tmp_path, conversation)


def test_an_expired_batch_has_an_error_for_the_rest(core, tmp_path):
    async def conversation(bench):
        await bench.add(
            "b", line("a"), *(line(f"z{n}", max_tokens=1500, ignore_eos=True) for n in range(50)), expires_in_s=2
        )
        record = await bench.ends("b")
        assert (record.status, record.num_completed, record.num_failed) == ("expired", 1, 50)
        errors = bench.results(record.error_file_id)
        assert {error["error"]["code"] for error in errors.values()} == {"batch_expired"}
        assert set(errors) == {f"z{n}" for n in range(50)}

    work(core, tmp_path, conversation)


def test_one_batch_of_a_key_runs_at_a_time_and_keys_side_by_side(core, tmp_path):
    async def conversation(bench):
        long = [line(f"z{n}", max_tokens=1500, ignore_eos=True) for n in range(2)]
        await bench.add("first", *long, key_id="one")
        await bench.add("second", line("a"), key_id="one")
        await bench.add("other", line("a"), key_id="two")
        assert (await bench.ends("other")).status == "completed"
        assert (await bench.get("second")).num_completed == 0
        await bench.store.call(lambda database: database.cancel("first", 5))
        assert (await bench.ends("second")).status == "completed"
        assert (await bench.get("first")).status == "cancelled"

    work(core, tmp_path, conversation)


def test_all_batches_together_have_no_more_in_the_engine_than_one(core, tmp_path):
    """Else there would be no room in its queue for anybody else."""

    async def conversation(bench):
        for key_id in ("one", "two"):
            await bench.add(key_id, *(line(f"z{n}", ignore_eos=True) for n in range(200)), key_id=key_id)
        most = 0

        def is_done(record: BatchRecord) -> bool:
            nonlocal most
            most = max(most, bench.state.client.load.num_running + bench.state.client.load.num_waiting)
            return record.status == "completed"

        await bench.reaches("one", is_done)
        await bench.reaches("two", is_done)
        assert 0 < most <= num_at_once(bench.state.client.capacity)

    work(core, tmp_path, conversation)


def test_what_was_done_before_is_not_done_again(core, tmp_path):
    """Whatever ended the process before: here what it leaves, with a line that was cut off in the middle."""

    done = {"id": "batch_req_1", "custom_id": "a", "error": None}
    done["response"] = {"status_code": 200, "body": {"kept": True}}

    async def conversation(bench):
        await bench.add("b", line("a"), line("c"), line("d"), before=orjson.dumps(done) + b'\n{"id":"batch_req_2')
        record = await bench.ends("b")
        output = bench.results(record.output_file_id)
        assert output["a"]["response"]["body"] == {"kept": True}
        assert set(output) == {"a", "c", "d"}

    work(core, tmp_path, conversation)


@pytest.mark.parametrize("status", [BatchStatus.FINALIZING, BatchStatus.CANCELLING])
def test_an_end_that_was_cut_off_is_ended(core, tmp_path, status):
    """The output has its place already, the database does not know of it."""

    async def conversation(bench):
        await bench.add("b", line("a"))
        record = await bench.ends("b")
        first = bench.results(record.output_file_id)
        with closing(sqlite3.connect(bench.state_dir.database, isolation_level=None)) as database:
            database.execute("DELETE FROM files WHERE purpose = 'batch_output'")
            database.execute("UPDATE batches SET status = ?, output_file_id = NULL", (status,))
        again = await bench.ends("b")
        assert again.output_file_id == record.output_file_id
        assert again.num_completed == 1
        assert bench.results(again.output_file_id) == first

    work(core, tmp_path, conversation)


def test_a_file_whose_time_is_over_is_removed(core, tmp_path):
    async def conversation(bench):
        record = FileRecord("file-old", "", 1, 1, "old", "user_data", expires_at=2)
        bench.state_dir.file("file-old").write_bytes(b"x")
        await bench.store.call(lambda database: database.add_file(record))
        await bench.add("b", line("a"))
        await bench.ends("b")
        assert not bench.state_dir.file("file-old").exists()
        assert await bench.store.call(lambda database: database.expired_file_ids(5)) == []

    work(core, tmp_path, conversation)
