"""Portions of lines, whatever their form."""

import gzip
import threading
from pathlib import Path

import pytest

from frontend.batch.input_file import PORTION_BYTES, PORTION_LINES, InputFile, count_lines
from ipc.errors import ConfigError


def all_lines(path: Path, max_line_bytes: int = 100) -> list[tuple[int, bytes | None]]:
    with InputFile(path, max_line_bytes=max_line_bytes) as file:
        lines = []
        while portion := file.read_portion():
            assert len(portion) <= PORTION_LINES
            lines += portion
    return lines


def test_blank_lines_are_passed_over_and_counted(tmp_path: Path):
    path = tmp_path / "in"
    path.write_bytes(b"a\r\n\n  \nb")
    assert all_lines(path) == [(1, b"a"), (4, b"b")]
    assert count_lines(path, threading.Event()) == 4


def test_blank_lines_are_no_end_however_many(tmp_path: Path):
    path = tmp_path / "in"
    path.write_bytes(b"a\n" + (b" " * 2047 + b"\n") * (PORTION_BYTES // 1024) + b"b\n")
    assert [content for _, content in all_lines(path, 4096)] == [b"a", b"b"]


def test_a_long_line_is_not_held(tmp_path: Path):
    path = tmp_path / "in"
    path.write_bytes(b"x" * 100 + b"\n" + b"y" * 3_000_000 + b"\nlast\n")
    assert all_lines(path) == [(1, b"x" * 100), (2, None), (3, b"last")]


def test_gzip(tmp_path: Path):
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(b"line\n" * 3000))
    assert len(all_lines(path)) == count_lines(path, threading.Event()) == 3000
    path.write_bytes(gzip.compress(b"line\n" * 3000)[:-20])
    with pytest.raises(ConfigError, match="cannot read"):
        all_lines(path)


@pytest.mark.parametrize("name", ["nothing", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str):
    with pytest.raises(ConfigError):
        InputFile(tmp_path / name, max_line_bytes=10)
