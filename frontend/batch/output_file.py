"""A file of result lines that is only appended to, and can be trusted after any end of its writer.

Lines reach the kernel at once, so that only a crash of the machine can lose one, and the disk with `sync`. Invariant:
while an `OutputFile` is open, nobody else has it open, and once it is recovered it holds whole lines only; a line that
was torn by an earlier end, or by a disk that is full, is cut off. Used by `job.py`.
"""

import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Self

from frontend.batch.result_lines import LINE_BEGIN, DoneLine, read_result_line
from ipc.errors import ConfigError


class OutputFile:
    """An open file; a context manager."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it; call `recover` before anything is appended.

        What is no regular file (a pipe, a terminal) is written to all the same, without any of these promises.

        Raises:
            ConfigError: it cannot be opened or written to, or another job has it open.
        """
        self.path = path
        self._num_unsynced = 0
        self._size = 0
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._error(error) from error
        self.is_regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
        if not self.is_regular:
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            if isinstance(error, BlockingIOError):
                raise ConfigError(f"another batch job writes to {path}") from error
            raise self._error(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def num_unsynced(self) -> int:
        """Lines since the last `sync`."""
        return self._num_unsynced

    def recover(self, note: Callable[[DoneLine], None]) -> None:
        """Call `note` with what each line of earlier runs says, and cut off a torn one behind them.

        Raises:
            ConfigError: a line is not of a batch job, or cannot be read; the file is as it was.
        """
        if not self.is_regular:
            return
        try:
            with self.path.open("rb") as file:
                for number, raw in enumerate(file, 1):
                    self._recover_line(raw, number, note)
            os.ftruncate(self._fd, self._size)
        except OSError as error:
            raise self._error(error) from error

    def _recover_line(self, raw: bytes, number: int, note: Callable[[DoneLine], None]) -> None:
        is_whole = raw.endswith(b"\n")
        try:
            if is_whole:
                note(read_result_line(raw))
                self._size += len(raw)
            else:
                torn = raw.rstrip(b"\0")  # what a crash of the machine may leave of a page
                if not torn.startswith(LINE_BEGIN[: len(torn)]):
                    raise ValueError("no beginning of a line of ours")
        except ValueError as error:
            raise ConfigError(f"{self.path} is not of a batch job: line {number}") from error

    def append(self, line: bytes) -> None:
        """Write a whole line, with its end.

        Raises:
            ConfigError: the disk refuses; nothing of the line is left.
        """
        try:
            written = 0
            while written < len(line):
                written += os.write(self._fd, line[written:])
        except OSError as error:
            if self.is_regular:
                os.ftruncate(self._fd, self._size)
            raise self._error(error) from error
        if self.is_regular:
            self._size += len(line)
            self._num_unsynced += 1

    def sync(self) -> None:
        """Have everything on the disk; may be called in another thread.

        Raises:
            ConfigError: the disk refuses.
        """
        if not self._num_unsynced:
            return
        self._num_unsynced = 0
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Sync and close; raises as `sync` does."""
        try:
            self.sync()
        finally:
            os.close(self._fd)

    def _error(self, error: OSError) -> ConfigError:
        return ConfigError(f"cannot write {self.path}: {error.strerror}")
