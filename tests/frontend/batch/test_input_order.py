"""The output in the order of the input."""

import json
from pathlib import Path

import pytest

from frontend.batch.input_order import put_in_order
from frontend.batch.result_lines import LineResult, result_line
from ipc.errors import ConfigError


def test_lines_are_sorted_and_none_is_lost(tmp_path: Path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.write_text("".join(json.dumps({"custom_id": name}) + "\n" for name in "dbacb"))
    output.write_bytes(b"".join(result_line(LineResult(name, "r", 200, {})) for name in "axcd"))
    put_in_order(source, output, max_line_bytes=100)
    assert [json.loads(raw)["custom_id"] for raw in output.read_bytes().splitlines()] == list("dacx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_an_output_behind_a_link_is_sorted_where_it_is(tmp_path: Path):
    source, output, link = tmp_path / "in", tmp_path / "out", tmp_path / "link"
    source.write_text("".join(json.dumps({"custom_id": name}) + "\n" for name in "ab"))
    output.write_bytes(b"".join(result_line(LineResult(name, "r", 200, {})) for name in "ba"))
    link.symlink_to(output)
    put_in_order(source, link, max_line_bytes=100)
    assert link.is_symlink()
    assert [json.loads(raw)["custom_id"] for raw in output.read_bytes().splitlines()] == ["a", "b"]


def test_an_output_that_cannot_be_read_stays_as_it_is(tmp_path: Path):
    (tmp_path / "in").write_text("")
    (tmp_path / "out").write_text("nonsense\n")
    with pytest.raises(ConfigError, match="cannot sort"):
        put_in_order(tmp_path / "in", tmp_path / "out", max_line_bytes=100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
