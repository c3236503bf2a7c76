"""The database of files and batches: every SQL statement of the program.

SQLite in WAL mode, opened by each frontend, by the runner and, to look for work, by the launcher. What a caller was
told is on the disk (`synchronous=FULL`); progress counts alone are not waited for. A change of status says which status
it begins with, so that of two processes that want different ones a single one gets it.
Invariant: nothing here is called in an event loop (`store_thread.py`). Next: `records.py`.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from typing import Any, Self

from frontend.batch_api.records import (
    UNFINISHED,
    BatchRecord,
    BatchStatus,
    FileRecord,
    LineProblem,
    ResultName,
    TokenUsage,
    result_file_id,
)
from frontend.batch_api.state_dir import StateDir
from ipc.errors import ConfigError

SCHEMA_VERSION = 1
_BUSY_TIMEOUT_S = 10.0
_OPEN_RETRY_S = 0.02
_FILE_COLUMNS = tuple(field.name for field in fields(FileRecord))
_BATCH_COLUMNS = tuple(field.name for field in fields(BatchRecord))
_JSON_COLUMNS = ("metadata", "problems", "usage")
_SCHEMA = (
    f"CREATE TABLE files (seq INTEGER PRIMARY KEY AUTOINCREMENT, {', '.join(_FILE_COLUMNS)}, UNIQUE (id))",
    f"CREATE TABLE batches (seq INTEGER PRIMARY KEY AUTOINCREMENT, {', '.join(_BATCH_COLUMNS)}, UNIQUE (id))",
    "CREATE INDEX batches_by_status ON batches (status)",
    "CREATE INDEX files_by_expiry ON files (expires_at) WHERE expires_at IS NOT NULL",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_UNFINISHED = "status IN ({})".format(", ".join(f"'{status}'" for status in UNFINISHED))
_VISIBLE = "(expires_at IS NULL OR expires_at > :now)"
_OWN = "(:owner IS NULL OR key_id = :owner)"


class StateStore:
    """One connection; a context manager.

    Methods raise `sqlite3.Error` where the disk or another process is in the way. `owner` is the id of the key that
    asks, None for whoever may see all; `now` is in seconds since the epoch. The columns are the fields of the records:
    whoever changes those raises `SCHEMA_VERSION` and has older databases changed.
    """

    def __init__(self, state_dir: StateDir) -> None:
        """Open the database, or make it.

        Raises:
            ConfigError: a newer version of the program has made it, or its file system has no WAL.
            OSError: it cannot be made.
        """
        with suppress(FileExistsError):  # private whatever its folder is; SQLite gives its other files the same mode
            os.close(os.open(state_dir.database, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(
            state_dir.database, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            self._db.row_factory = sqlite3.Row
            self._use_wal(state_dir)
            self._db.execute("PRAGMA synchronous = FULL")
            self._make_schema(state_dir)
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self._db.close()

    def _use_wal(self, state_dir: StateDir) -> None:
        """Switching a new database fails at once, without the usual waiting, where another process does the same."""
        deadline = time.monotonic() + _BUSY_TIMEOUT_S
        while True:
            try:
                mode = self._db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(_OPEN_RETRY_S)
            else:
                break
        if mode != "wal":
            raise ConfigError(f"the file system of {state_dir.path} cannot hold the database (use --state-dir)")

    def _make_schema(self, state_dir: StateDir) -> None:
        with self._transaction():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise ConfigError(f"state dir {state_dir.path} is of a newer version of fast-inference")
            if version == 0:
                for statement in _SCHEMA:
                    self._db.execute(statement)

    # --- files ---

    def add_file(self, record: FileRecord) -> None:
        """Keep a new file."""
        self._insert("files", _FILE_COLUMNS, asdict(record))

    def file(self, file_id: str, owner: str | None, now: int) -> FileRecord | None:
        """A file that has not expired."""
        row = self._row(
            f"SELECT * FROM files WHERE id = :id AND {_OWN} AND {_VISIBLE}", id=file_id, owner=owner, now=now
        )
        return None if row is None else _file_of(row)

    def files(
        self, owner: str | None, now: int, *, limit: int, purpose: str | None, after: str | None, is_ascending: bool
    ) -> list[FileRecord]:
        """At most so many behind the one `after`, in the order in which they came or the other way round."""
        compare, order = (">", "ASC") if is_ascending else ("<", "DESC")
        rows = self._db.execute(
            f"SELECT * FROM files WHERE {_OWN} AND {_VISIBLE} AND (:purpose IS NULL OR purpose = :purpose)"
            f" AND (:after IS NULL OR seq {compare} (SELECT seq FROM files WHERE id = :after))"
            f" ORDER BY seq {order} LIMIT :limit",
            {"owner": owner, "now": now, "purpose": purpose, "after": after, "limit": limit},
        )
        return [_file_of(row) for row in rows]

    def remove_file(self, file_id: str, owner: str | None) -> bool:
        """Forget a file; False if there is none."""
        removed = self._db.execute(f"DELETE FROM files WHERE id = :id AND {_OWN}", {"id": file_id, "owner": owner})
        return removed.rowcount > 0

    def expired_file_ids(self, now: int) -> list[str]:
        """Files whose time is over."""
        rows = self._db.execute("SELECT id FROM files WHERE expires_at <= ?", (now,))
        return [str(row["id"]) for row in rows]

    def all_ids(self) -> tuple[set[str], set[str]]:
        """Of all files, those too that an unfinished batch may have published already, and of those batches."""
        file_ids = {str(row["id"]) for row in self._db.execute("SELECT id FROM files")}
        batch_ids = {str(row["id"]) for row in self._db.execute(f"SELECT id FROM batches WHERE {_UNFINISHED}")}
        results = {result_file_id(batch_id, name) for batch_id in batch_ids for name in ResultName}
        return file_ids | results, batch_ids

    # --- batches, as frontends see them ---

    def add_batch(self, record: BatchRecord, max_unfinished: int) -> bool:
        """Keep a new batch; False where its key has so many that have not ended."""
        with self._transaction():
            count = f"SELECT count(*) FROM batches WHERE {_UNFINISHED} AND key_id = ?"
            if self._db.execute(count, (record.key_id,)).fetchone()[0] >= max_unfinished:
                return False
            values = asdict(record)
            for name in _JSON_COLUMNS:
                values[name] = json.dumps(values[name])
            self._insert("batches", _BATCH_COLUMNS, values)
        return True

    def batch(self, batch_id: str, owner: str | None) -> BatchRecord | None:
        """A batch."""
        row = self._row(f"SELECT * FROM batches WHERE id = :id AND {_OWN}", id=batch_id, owner=owner)
        return None if row is None else _batch_of(row)

    def batches(self, owner: str | None, *, limit: int, after: str | None) -> list[BatchRecord]:
        """At most so many, the latest first, behind the one `after`."""
        rows = self._db.execute(
            f"SELECT * FROM batches WHERE {_OWN}"
            " AND (:after IS NULL OR seq < (SELECT seq FROM batches WHERE id = :after)) ORDER BY seq DESC LIMIT :limit",
            {"owner": owner, "after": after, "limit": limit},
        )
        return [_batch_of(row) for row in rows]

    def cancel(self, batch_id: str, now: int) -> None:
        """Ask for the end of a batch; one that is not run yet has ended with that, others are told by the runner."""
        with self._transaction():
            self._move(batch_id, BatchStatus.VALIDATING, BatchStatus.CANCELLED, cancelling_at=now, cancelled_at=now)
            self._move(batch_id, BatchStatus.IN_PROGRESS, BatchStatus.CANCELLING, cancelling_at=now)

    # --- batches, as the runner sees them ---

    def has_work(self, now: int) -> bool:
        """True where a runner would have something to do."""
        expired = "EXISTS (SELECT 1 FROM files WHERE expires_at <= ?)"
        row = self._db.execute(f"SELECT EXISTS (SELECT 1 FROM batches WHERE {_UNFINISHED}) OR {expired}", (now,))
        return bool(row.fetchone()[0])

    def num_batches_by_status(self) -> dict[str, int]:
        """Of all keys; statuses without a batch are left out."""
        rows = self._db.execute("SELECT status, count(*) AS num FROM batches GROUP BY status")
        return {str(row["status"]): int(row["num"]) for row in rows}

    def unfinished(self) -> list[BatchRecord]:
        """All batches that have not ended, the oldest first."""
        return [_batch_of(row) for row in self._db.execute(f"SELECT * FROM batches WHERE {_UNFINISHED} ORDER BY seq")]

    def begin(self, batch_id: str, *, num_total: int, model: str | None, now: int) -> bool:
        """The input is right; False where the batch was cancelled meanwhile, as below."""
        values = {"num_total": num_total, "model": model, "in_progress_at": now, "problems": "[]"}
        return self._move(batch_id, BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS, **values)

    def fail(self, batch_id: str, problems: Sequence[LineProblem], *, num_total: int, now: int) -> bool:
        """The input is wrong."""
        values = {"problems": _json_of(problems), "num_total": num_total, "failed_at": now}
        return self._move(batch_id, BatchStatus.VALIDATING, BatchStatus.FAILED, **values)

    def note_progress(self, batch_id: str, num_completed: int, num_failed: int) -> None:
        """How far a batch is; a crash of the machine may lose this."""
        self._db.execute("PRAGMA synchronous = NORMAL")
        try:
            self._move(batch_id, BatchStatus.IN_PROGRESS, None, num_completed=num_completed, num_failed=num_failed)
        finally:
            self._db.execute("PRAGMA synchronous = FULL")

    def note_problem(self, batch_id: str, problem: LineProblem | None) -> None:
        """Why a batch waits that has not ended, or that it does no longer."""
        self._db.execute(
            f"UPDATE batches SET problems = ? WHERE id = ? AND {_UNFINISHED}",
            (_json_of([] if problem is None else [problem]), batch_id),
        )

    def finalize(self, batch_id: str, outcome: BatchStatus, now: int) -> bool:
        """No line is run any more."""
        values = {"outcome": outcome, "finalizing_at": now, "problems": "[]"}
        return self._move(batch_id, BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, **values)

    def end(
        self, batch: BatchRecord, *, output: FileRecord | None, errors: FileRecord | None, usage: TokenUsage, now: int
    ) -> None:
        """A batch that is finalizing or cancelling has ended with these files; counts are those of `batch`."""
        status = BatchStatus.CANCELLED if batch.status is BatchStatus.CANCELLING else batch.outcome
        with self._transaction():
            for record in (output, errors):
                if record is not None:
                    self._insert("files", _FILE_COLUMNS, asdict(record))
            values = {
                "output_file_id": None if output is None else output.id,
                "error_file_id": None if errors is None else errors.id,
                "usage": json.dumps(asdict(usage)),
                "num_completed": batch.num_completed,
                "num_failed": batch.num_failed,
                "problems": "[]",
                f"{status}_at": now,
            }
            self._move(batch.id, batch.status, status, **values)

    # --- statements ---

    def _move(self, batch_id: str, before: BatchStatus, after: BatchStatus | None, **values: Any) -> bool:
        """Change a batch of the status `before`; False if it has another one."""
        if after is not None:
            values["status"] = after
        changes = ", ".join(f"{name} = :{name}" for name in values)
        sql = f"UPDATE batches SET {changes} WHERE id = :batch_id AND status = :before"
        return self._db.execute(sql, {**values, "batch_id": batch_id, "before": before}).rowcount > 0

    def _insert(self, table: str, columns: Sequence[str], values: dict[str, Any]) -> None:
        names = ", ".join(f":{column}" for column in columns)
        self._db.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({names})", values)

    def _row(self, sql: str, **values: Any) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._db.execute(sql, values).fetchone()
        return row

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a disk that is full may have ended it
                self._db.execute("ROLLBACK")
            raise


def _json_of(problems: Sequence[LineProblem]) -> str:
    return json.dumps([asdict(problem) for problem in problems])


def _file_of(row: sqlite3.Row) -> FileRecord:
    return FileRecord(**{name: row[name] for name in _FILE_COLUMNS})


def _batch_of(row: sqlite3.Row) -> BatchRecord:
    values = {name: row[name] for name in _BATCH_COLUMNS}
    for name in _JSON_COLUMNS:
        values[name] = json.loads(values[name])
    record = BatchRecord(**values)
    return replace(
        record,
        status=BatchStatus(record.status),
        outcome=BatchStatus(record.outcome),
        problems=[LineProblem(**problem) for problem in values["problems"]],
        usage=None if values["usage"] is None else TokenUsage(**values["usage"]),
    )
