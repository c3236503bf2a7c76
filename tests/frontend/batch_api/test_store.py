"""The database: a status only goes where it may, whoever asks; nothing is seen by other keys; versions are checked."""

import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from frontend.batch_api.records import UNFINISHED, BatchRecord, BatchStatus, FileRecord, LineProblem, TokenUsage
from frontend.batch_api.state_dir import StateDir
from frontend.batch_api.store import SCHEMA_VERSION, StateStore
from ipc.errors import ConfigError

NEXT = {
    BatchStatus.VALIDATING: {BatchStatus.IN_PROGRESS, BatchStatus.FAILED, BatchStatus.CANCELLED},
    BatchStatus.IN_PROGRESS: {BatchStatus.FINALIZING, BatchStatus.CANCELLING},
    BatchStatus.FINALIZING: {BatchStatus.COMPLETED, BatchStatus.EXPIRED},
    BatchStatus.CANCELLING: {BatchStatus.CANCELLED},
}
PROBLEM = LineProblem("invalid_json", "The line is no JSON object.", line=3)


def make_state_dir(path: Path) -> StateDir:
    state_dir = StateDir(path / "state")
    state_dir.create()
    return state_dir


def batch(batch_id: str = "batch_1", key_id: str = "") -> BatchRecord:
    return BatchRecord(batch_id, key_id, "/v1/completions", "file-in", 10, 20, metadata={"a": "b"})


def file(file_id: str, key_id: str = "", **values) -> FileRecord:
    return FileRecord(file_id, key_id, 10, 5, "name", values.pop("purpose", "batch"), **values)


@pytest.fixture
def store(tmp_path: Path):
    with StateStore(make_state_dir(tmp_path)) as store:
        yield store


class BatchLife(RuleBasedStateMachine):
    """Runner and frontends do to one batch whatever they can, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.temporary = tempfile.TemporaryDirectory()
        self.store = StateStore(make_state_dir(Path(self.temporary.name)))
        self.store.add_batch(batch(), 1)
        self.status = BatchStatus.VALIDATING

    def teardown(self) -> None:
        self.store.close()
        self.temporary.cleanup()

    def current(self) -> BatchRecord:
        record = self.store.batch("batch_1", None)
        assert record is not None
        return record

    def check(self, has_moved: bool, *expected_from: BatchStatus) -> None:
        assert has_moved == (self.status in expected_from)

    @rule()
    def validated(self) -> None:
        self.check(self.store.begin("batch_1", num_total=3, model="m", now=11), BatchStatus.VALIDATING)

    @rule()
    def found_wrong(self) -> None:
        self.check(self.store.fail("batch_1", [PROBLEM], num_total=3, now=11), BatchStatus.VALIDATING)

    @rule(outcome=st.sampled_from([BatchStatus.COMPLETED, BatchStatus.EXPIRED]))
    def all_done(self, outcome: BatchStatus) -> None:
        self.check(self.store.finalize("batch_1", outcome, 12), BatchStatus.IN_PROGRESS)

    @rule()
    def ended(self) -> None:
        record = self.current()
        if record.status in (BatchStatus.FINALIZING, BatchStatus.CANCELLING):
            self.store.end(record, output=None, errors=None, usage=TokenUsage(), now=13)

    @rule()
    def cancelled(self) -> None:
        self.store.cancel("batch_1", 14)

    @rule(count=st.integers(0, 3))
    def progressed(self, count: int) -> None:
        before = self.current()
        self.store.note_progress("batch_1", count, 0)
        expected = count if before.status is BatchStatus.IN_PROGRESS else before.num_completed
        assert self.current().num_completed == expected

    @invariant()
    def goes_only_where_it_may(self) -> None:
        status = self.current().status
        assert status is self.status or status in NEXT.get(self.status, ())
        self.status = status
        assert bool(self.store.unfinished()) == self.store.has_work(0) == (status in UNFINISHED)
        if status not in UNFINISHED:
            assert getattr(self.current(), f"{status}_at") is not None


BatchLife.TestCase.settings = settings(max_examples=20, stateful_step_count=8, deadline=None, derandomize=True)
test_batch_life = BatchLife.TestCase


def test_what_is_kept_is_what_comes_back(store):
    record = replace(batch(), problems=[PROBLEM], usage=TokenUsage(1, 2, 3, 4), output_expires_after_s=7)
    store.add_batch(record, 1)
    store.add_file(file("file-1", expires_at=30))
    assert store.batch("batch_1", None) == record
    assert store.file("file-1", None, 29) == file("file-1", expires_at=30)


def test_an_end_and_its_files_are_one_step(store):
    store.add_batch(batch(), 1)
    store.begin("batch_1", num_total=1, model="m", now=11)
    store.finalize("batch_1", BatchStatus.COMPLETED, 12)
    record = store.batch("batch_1", None)
    store.add_file(file("file-taken"))
    with pytest.raises(sqlite3.IntegrityError):
        store.end(record, output=file("file-out"), errors=file("file-taken"), usage=TokenUsage(), now=13)
    assert store.file("file-out", None, 14) is None
    assert store.batch("batch_1", None).status is BatchStatus.FINALIZING


def test_keys_see_what_is_theirs(store):
    for key_id in ("one", "two"):
        store.add_file(file(f"file-{key_id}", key_id))
        store.add_batch(batch(f"batch_{key_id}", key_id), 1)
    page = {"limit": 10, "purpose": None, "after": None, "is_ascending": False}
    assert [record.id for record in store.files("one", 0, **page)] == ["file-one"]
    assert [record.id for record in store.files(None, 0, **page)] == ["file-two", "file-one"]
    assert [record.id for record in store.batches("one", limit=10, after=None)] == ["batch_one"]
    assert store.file("file-two", "one", 0) is None
    assert store.batch("batch_two", "one") is None
    assert not store.remove_file("file-two", "one")


def test_pages_follow_each_other_in_both_orders(store):
    for index in range(5):
        store.add_file(file(f"file-{index}", purpose="batch" if index % 2 else "user_data"))

    def ids(**page) -> list[str]:
        values = {"limit": 2, "purpose": None, "after": None, "is_ascending": True, **page}
        return [record.id for record in store.files(None, 0, **values)]

    assert ids() == ["file-0", "file-1"]
    assert ids(after="file-1") == ["file-2", "file-3"]
    assert ids(is_ascending=False, after="file-3") == ["file-2", "file-1"]
    assert ids(purpose="batch") == ["file-1", "file-3"]


def test_a_file_whose_time_is_over_is_work_for_the_runner(store):
    store.add_file(file("file-1", expires_at=30))
    assert not store.has_work(29)
    assert store.has_work(30)
    assert store.file("file-1", None, 30) is None
    assert store.expired_file_ids(30) == ["file-1"]


def test_a_key_has_so_many_unfinished_batches(store):
    assert store.add_batch(batch("batch_1", "one"), 1)
    assert not store.add_batch(batch("batch_2", "one"), 1)
    assert store.add_batch(batch("batch_3", "two"), 1)


def test_the_first_ones_may_come_at_once(tmp_path):
    state_dir = make_state_dir(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        stores = list(threads.map(StateStore, [state_dir] * 8))
    for store in stores:
        assert store.batches(None, limit=1, after=None) == []
        store.close()


def test_a_newer_database_is_refused(tmp_path):
    state_dir = make_state_dir(tmp_path)
    StateStore(state_dir).close()
    database = sqlite3.connect(state_dir.database)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()
    with pytest.raises(ConfigError, match="newer version"):
        StateStore(state_dir)


def test_the_columns_are_those_of_this_version(store, tmp_path):
    """A change here needs another `SCHEMA_VERSION`, and statements that change older databases."""
    database = sqlite3.connect(tmp_path / "state/batches.sqlite")
    columns = {
        table: " ".join(row[1] for row in database.execute(f"PRAGMA table_info({table})"))
        for table in ("files", "batches")
    }
    database.close()
    assert SCHEMA_VERSION == 1
    assert columns == {
        "files": "seq id key_id created_at num_bytes filename purpose expires_at",
        "batches": "seq id key_id endpoint input_file_id created_at expires_at status metadata output_expires_after_s "
        "outcome model problems usage num_total num_completed num_failed output_file_id error_file_id in_progress_at "
        "finalizing_at completed_at failed_at expired_at cancelling_at cancelled_at",
    }
