"""Parquet in the place of JSONL: rows that are read as lines of requests, and answers that are written as rows.

An input has the columns `custom_id`, `method`, `url` and `body`; without `method`, all are POST. `body` is a text in
JSON, or a struct, whose nulls are left out. An output has `id`, `custom_id`, `status_code`, `request_id`, and `body` as
a text in JSON. Numbers of lines are those of rows, from 1. Used by `inputs.py` and `parts.py`.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import orjson
import pyarrow
import pyarrow.parquet

from frontend.batch.input_file import PORTION_LINES, START, Position, RawLine
from ipc.errors import ConfigError

_COLUMNS = ("custom_id", "method", "url", "body")
_BATCH_ROWS = 256
_OUTPUT_SCHEMA = pyarrow.schema(
    [
        ("id", pyarrow.string()),
        ("custom_id", pyarrow.string()),
        ("status_code", pyarrow.int32()),
        ("request_id", pyarrow.string()),
        ("body", pyarrow.string()),
    ]
)


class ParquetInput:
    """An open input; a context manager. Its `Position`s count rows only."""

    def __init__(self, path: Path, *, max_line_bytes: int, begin: Position = START) -> None:
        """Raises ConfigError where it cannot be opened or lacks a column."""
        self._path = path
        self.max_line_bytes = max_line_bytes
        self._num_rows = begin.num_lines
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except (OSError, pyarrow.ArrowException) as error:
            raise self._error(error) from error
        names = self._file.schema_arrow.names
        if missing := [name for name in _COLUMNS if name not in names and name != "method"]:
            self._file.close()
            raise ConfigError(f"{path} has no column {missing[0]}")
        self._columns = [name for name in _COLUMNS if name in names]
        self._rows = self._rows_from(begin.num_lines)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def position(self) -> Position:
        """Behind the last portion."""
        return Position(0, self._num_rows)

    def read_portion(self, max_lines: int = PORTION_LINES) -> list[RawLine]:
        """The next rows, so many at most; empty at the end.

        Raises:
            ConfigError: the file cannot be read on.
        """
        lines: list[RawLine] = []
        try:
            while len(lines) < max_lines and (row := next(self._rows, None)) is not None:
                self._num_rows += 1
                line = _line_of(row)
                lines.append((self._num_rows, line if len(line) <= self.max_line_bytes else None))
        except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise self._error(error) from error
        return lines

    def _rows_from(self, num_before: int) -> Iterator[dict[str, Any]]:
        """Without reading the row groups before it."""
        metadata = self._file.metadata
        first = 0
        while first < metadata.num_row_groups and metadata.row_group(first).num_rows <= num_before:
            num_before -= metadata.row_group(first).num_rows
            first += 1
        groups = list(range(first, metadata.num_row_groups))
        for batch in self._file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=self._columns):
            skipped = min(num_before, batch.num_rows)
            num_before -= skipped
            yield from batch.slice(skipped).to_pylist()

    def _error(self, error: Exception) -> ConfigError:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        return ConfigError(f"cannot read {self._path}: {reason}")


def write_parquet(lines: Sequence[bytes], path: Path) -> None:
    """Write the lines of an output file (`frontend/batch/result_lines.py`) as rows; raises `OSError`."""
    rows = []
    for values in map(orjson.loads, lines):
        response = values["response"]
        rows.append(
            {
                "id": values["id"],
                "custom_id": values["custom_id"],
                "status_code": response["status_code"],
                "request_id": response["request_id"],
                "body": orjson.dumps(response["body"]).decode(),
            }
        )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=_OUTPUT_SCHEMA), path)


def _line_of(row: dict[str, Any]) -> bytes:
    body = row["body"]
    if isinstance(body, str):
        with suppress(ValueError):  # a text is no body, which is what the line's error says
            body = orjson.loads(body)
    else:
        body = _without_nulls(body)
    line = {"method": "POST", **row, "body": body}
    try:
        return orjson.dumps(line, default=str)
    except TypeError:  # nested too deep: a line that is wrong, as a text is no body
        return orjson.dumps({**line, "body": str(row["body"])}, default=str)


def _without_nulls(value: Any) -> Any:
    """Every row of a struct has all its fields; those that are null are fields that a body does not have."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
