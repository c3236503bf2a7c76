"""The output folder of a job on many machines: one part for each block of the input, there whole or not at all.

    OUTPUT/part-000012.jsonl           answers, in the order of the input; or .parquet
    OUTPUT/errors/part-000012.jsonl    lines that failed, where there are any
    OUTPUT/_job/manifest.json          the blocks that the parts are of
    OUTPUT/_job/part-000012/           the part is done; counts.json says what is in it
    OUTPUT/_job/part-000012.try-…/     somebody works on it, or has died of it

A part is committed by renaming the folder of a try to that of the part, which fails where another try was first:
whoever answers a block twice, because a node was taken for dead, changes nothing. Its files are moved to their places
then, by anybody, as often as need be. Invariant: all files of a part are of one try. All of it needs a file system that
every node sees, with renames that are atomic.
"""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

import orjson

from ipc.errors import ConfigError

_MAX_TRIES = 10
"""Of one part in one run, after which it is taken for what kills its workers."""
_COUNTS, _ANSWERS, _ERRORS = "counts.json", "answers", "errors.jsonl"
_TRY = ".try-"


class OutputFormat(StrEnum):
    """Of the answers; lines that failed are always JSONL."""

    JSONL = "jsonl"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class PartCounts:
    """What a part holds."""

    index: int
    num_ok: int
    num_failed: int
    num_prompt_tokens: int
    num_output_tokens: int

    def to_json(self) -> bytes:
        """What `from_json` reads."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes | str) -> "PartCounts":
        """What `to_json` wrote."""
        return cls(**orjson.loads(text))


class OutputFolder:
    """As a worker sees it."""

    def __init__(self, path: Path, output_format: OutputFormat) -> None:
        self._path = path
        self._format = output_format
        self._job = path / "_job"

    def counts(self, index: int) -> PartCounts | None:
        """Of a part that is done; None of any other."""
        try:
            return PartCounts.from_json((self._mark(index) / _COUNTS).read_bytes())
        except FileNotFoundError:
            return None

    def begin_try(self, index: int) -> Path:
        """A folder of one's own to answer a block in.

        Raises:
            ConfigError: too many have died of it already.
        """
        num_before = sum(1 for _ in self._job.glob(f"{_name(index)}{_TRY}*"))
        if num_before >= _MAX_TRIES:
            raise ConfigError(f"part {index} was begun {num_before} times and never done: its workers die")
        folder = self._job / f"{_name(index)}{_TRY}{uuid.uuid4().hex}"
        folder.mkdir()
        return folder

    def commit(self, folder: Path, counts: PartCounts, answers: Sequence[bytes], errors: Sequence[bytes]) -> PartCounts:
        """Make a try the part, unless another one was first; returns what the part holds.

        Raises:
            OSError: the disk refuses.
        """
        self._write_answers(folder / _ANSWERS, answers)
        if errors:
            (folder / _ERRORS).write_bytes(b"".join(errors))
        (folder / _COUNTS).write_bytes(counts.to_json())
        for path in (*folder.iterdir(), folder):
            _sync(path)
        try:
            folder.rename(self._mark(counts.index))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(folder)
        _sync(self._job)
        self.publish(counts.index)
        committed = self.counts(counts.index)
        assert committed is not None
        return committed

    def publish(self, index: int) -> None:
        """Move the files of a part that is done to their places; those that are there already stay."""
        mark = self._mark(index)
        for source, target in ((mark / _ERRORS, self.errors_path(index)), (mark / _ANSWERS, self.answers_path(index))):
            try:
                source.rename(target)
            except FileNotFoundError:
                continue
            _sync(target.parent)

    def answers_path(self, index: int) -> Path:
        """Where the answers of a part are."""
        return self._path / f"{_name(index)}.{self._format}"

    def errors_path(self, index: int) -> Path:
        """Where its lines that failed are."""
        return self._path / "errors" / f"{_name(index)}.jsonl"

    def _mark(self, index: int) -> Path:
        return self._job / _name(index)

    def _write_answers(self, path: Path, answers: Sequence[bytes]) -> None:
        if self._format is OutputFormat.PARQUET:
            from fast_inference.ray_batch.parquet import write_parquet

            write_parquet(answers, path)
        else:
            path.write_bytes(b"".join(answers))


class JobFolder(OutputFolder):
    """As the driver of a job owns it, while no worker is there yet; a context manager that keeps others out."""

    def __enter__(self) -> Self:
        """Make it or open it.

        Raises:
            ConfigError: it cannot be made, holds something else, or another job works on it.
        """
        try:
            if self._path.is_dir() and not self._job.is_dir() and any(self._path.iterdir()):
                raise ConfigError(f"{self._path} is not empty and not of a batch job")
            for folder in (self._job, self._path / "errors"):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._job / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(f"cannot write {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise ConfigError(f"another batch job writes to {self._path}") from error
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._lock)

    def recover(self, manifest: bytes, num_parts: int) -> dict[int, PartCounts]:
        """What earlier runs have done; their torn tries go, and a part whose answers somebody removed is done anew.

        Raises:
            ConfigError: the folder is of another job, or cannot be written to.
        """
        try:
            return self._recover(manifest, num_parts)
        except OSError as error:
            raise ConfigError(f"cannot write {error.filename or self._path}: {error.strerror}") from error

    def _recover(self, manifest: bytes, num_parts: int) -> dict[int, PartCounts]:
        known = self._job / "manifest.json"
        for folder in self._job.glob(f"*{_TRY}*"):
            shutil.rmtree(folder)
        if not known.exists() or known.read_bytes() != manifest:
            if any(self._job.glob("part-*")):
                raise ConfigError(
                    f"{self._path} holds parts of another job: of another input, --lines-per-part or --output-format"
                )
            temporary = known.with_suffix(".tmp")
            temporary.write_bytes(manifest)
            _sync(temporary)
            temporary.rename(known)
        done = {}
        for index in range(num_parts):
            counts = self.counts(index)
            if counts is None:
                continue
            self.publish(index)
            if self.answers_path(index).exists():
                done[index] = counts
            else:
                self.errors_path(index).unlink(missing_ok=True)
                shutil.rmtree(self._mark(index))
        return done


def _name(index: int) -> str:
    return f"part-{index:06d}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
