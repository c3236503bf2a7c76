"""The input of a batch job, read in portions: plain lines, or gzip where its name ends in `.gz`.

A reader may begin in the middle, where another one was between two portions; a gzip is unpacked up to there.
Invariant: no more than a portion is held, however long the file and its lines are.
"""

import gzip
import os
import stat
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, cast

from ipc.errors import ConfigError

PORTION_LINES = 1024
PORTION_BYTES = 4 * 2**20
_COUNTED_BYTES = 2**20

RawLine = tuple[int, bytes | None]
"""Number from 1 and content without its end; None where that is too long."""


@dataclass(frozen=True, slots=True)
class Position:
    """Between two lines of an input."""

    offset: int = 0
    """Bytes before it, unpacked ones."""
    num_lines: int = 0
    """Lines before it."""


START = Position()


class InputFile:
    """An open input; a context manager."""

    def __init__(self, path: Path, *, max_line_bytes: int, begin: Position = START) -> None:
        """Raises ConfigError where it cannot be opened, or is no regular file, which alone can be resumed."""
        self._path = path
        self.max_line_bytes = max_line_bytes
        self._num_lines = begin.num_lines
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise ConfigError(f"{path} is no regular file")
            self._file = _open(path)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        if begin.offset:
            try:
                self._file.seek(begin.offset)
            except (OSError, EOFError, zlib.error) as error:
                self._file.close()
                raise self._error(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def position(self) -> Position:
        """Behind the last portion."""
        return Position(self._file.tell(), self._num_lines)

    def read_portion(self, max_lines: int = PORTION_LINES) -> list[RawLine]:
        """The next lines that are not blank, so many at most; empty at the end.

        Raises:
            ConfigError: the file cannot be read on, or is no gzip.
        """
        try:
            return self._read_portion(max_lines)
        except (OSError, EOFError, zlib.error) as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> ConfigError:
        reason = getattr(error, "strerror", None) or str(error)
        return ConfigError(f"cannot read {self._path} behind line {self._num_lines}: {reason}")

    def _read_portion(self, max_lines: int) -> list[RawLine]:
        lines: list[RawLine] = []
        num_bytes = 0
        while len(lines) < max_lines and (num_bytes < PORTION_BYTES or not lines):
            raw = self._file.readline(self.max_line_bytes + 2)
            if not raw:
                break
            self._num_lines += 1
            num_bytes += len(raw)
            content = raw.removesuffix(b"\n").removesuffix(b"\r")
            if len(content) > self.max_line_bytes:
                self._skip_rest(raw)
                lines.append((self._num_lines, None))
            elif content.strip():
                lines.append((self._num_lines, content))
        return lines

    def _skip_rest(self, raw: bytes) -> None:
        while raw and not raw.endswith(b"\n"):
            raw = self._file.readline(_COUNTED_BYTES)


def count_lines(path: Path, is_over: threading.Event) -> int | None:
    """How many lines a file has, blank ones too; None if nobody wants to know any more.

    Raises:
        ConfigError: the file cannot be read.
    """
    count, last = 0, b"\n"
    try:
        with _open(path) as file:
            while chunk := file.read(_COUNTED_BYTES):
                if is_over.is_set():
                    return None
                count += chunk.count(b"\n")
                last = chunk[-1:]
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    return count + (last != b"\n")


def _open(path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")
