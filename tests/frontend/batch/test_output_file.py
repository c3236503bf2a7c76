"""What is in an output file after any end, and after a disk that refuses."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frontend.batch.output_file import OutputFile
from frontend.batch.result_lines import LineResult, result_line
from ipc.errors import ConfigError


def line(custom_id: str) -> bytes:
    return result_line(LineResult(custom_id, "r", 200, {"text": "ä" * 5}))


def recovered(path: Path) -> list[str | None]:
    ids: list[str | None] = []
    with OutputFile(path) as output:
        output.recover(lambda done: ids.append(done.custom_id))
    return ids


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_is_cut_anywhere_goes_on_with_whole_lines(tmp_path: Path, data: st.DataObject):
    path = tmp_path / "out.jsonl"
    ids = [f"id-{number}" for number in range(5)]
    whole = b"".join(map(line, ids))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))] + b"\0" * data.draw(st.integers(0, 3)))
    kept = recovered(path)
    assert kept == ids[: len(kept)]
    with OutputFile(path) as output:
        output.recover(lambda done: None)
        for custom_id in ids[len(kept) :]:
            output.append(line(custom_id))
    assert [json.loads(raw)["custom_id"] for raw in path.read_bytes().splitlines()] == ids


@pytest.mark.parametrize("content", [b"a text of somebody", b"{}\n", b'{"custom_id": "a"}\n', b"[1]\n"])
def test_a_file_that_is_not_ours_is_left_as_it_is(tmp_path: Path, content: bytes):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not of a batch job: line 1"):
        recovered(path)
    assert path.read_bytes() == content


def test_only_one_job_writes_to_a_file(tmp_path: Path):
    with OutputFile(tmp_path / "out"), pytest.raises(ConfigError, match="another batch job writes to"):
        OutputFile(tmp_path / "out")


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_for_which_there_is_no_room_leaves_nothing_behind(tmp_path: Path):
    path = tmp_path / "out"
    with OutputFile(path) as output:
        output.append(line("a"))
        with file_size_limit(path.stat().st_size + 10), pytest.raises(ConfigError, match="File too large"):
            output.append(line("b"))
    assert recovered(path) == ["a"]


def test_a_full_device_says_so():
    with OutputFile(Path("/dev/full")) as output, pytest.raises(ConfigError, match="No space left on device"):
        output.append(line("a"))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"cannot write .*nowhere/out: No such file"):
        OutputFile(tmp_path / "nowhere" / "out")
