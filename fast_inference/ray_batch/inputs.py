"""The input of a job on many machines: one file or a folder of them; JSONL, `.gz` of it, or Parquet.

All forms are read as lines with numbers (`frontend/batch/input_file.py`), from any place where a block begins.
Used by `plan.py` and `worker.py`.
"""

from pathlib import Path
from typing import Protocol, Self

from frontend.batch.input_file import START, InputFile, Position, RawLine
from frontend.batch.job import LINE_ROOM_BYTES
from ipc.errors import ConfigError

PARQUET_SUFFIX = ".parquet"
_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", PARQUET_SUFFIX)


class LineReader(Protocol):
    """An open file of the input; a context manager."""

    @property
    def max_line_bytes(self) -> int:
        """Longer lines come without their content."""

    @property
    def position(self) -> Position:
        """Behind the last portion."""

    def read_portion(self, max_lines: int = ...) -> list[RawLine]:
        """The next lines, so many at most; empty at the end. Raises ConfigError where the file cannot be read on."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def input_names(root: Path) -> list[str]:
    """The files of an input, by their paths relative to it, in order; `[""]` where it is one file itself.

    Raises:
        ConfigError: it is not there, or a folder without such files.
    """
    if not root.is_dir():
        if not root.exists():
            raise ConfigError(f"cannot read {root}: no such file or folder")
        return [""]
    paths = [path.relative_to(root) for path in root.rglob("*") if path.name.endswith(_SUFFIXES) and path.is_file()]
    names = sorted(str(path) for path in paths if not any(part.startswith((".", "_")) for part in path.parts))
    if not names:
        raise ConfigError(f"{root} has no file whose name ends in {', '.join(_SUFFIXES)}")
    return names


def open_input(root: Path, name: str, max_body_bytes: int, begin: Position = START) -> LineReader:
    """One of the files, from a place on; raises `ConfigError` where it cannot be opened."""
    path = root / name if name else root
    max_line_bytes = max_body_bytes + LINE_ROOM_BYTES
    if path.suffix == PARQUET_SUFFIX:
        from fast_inference.ray_batch.parquet import ParquetInput  # pyarrow takes its time

        return ParquetInput(path, max_line_bytes=max_line_bytes, begin=begin)
    return InputFile(path, max_line_bytes=max_line_bytes, begin=begin)
