"""A part is there whole or not at all, once, whoever else works on it."""

import json
from pathlib import Path

import pyarrow.parquet
import pytest

from fast_inference.ray_batch.parts import JobFolder, OutputFolder, OutputFormat, PartCounts
from ipc.errors import ConfigError

ANSWER = json.dumps(
    {"id": "x", "custom_id": "a", "response": {"status_code": 200, "request_id": "r", "body": {"n": 1}}, "error": None}
).encode()


def commit(folder: OutputFolder, index: int, answer: bytes, *errors: bytes) -> PartCounts:
    counts = PartCounts(index, 1, len(errors), 0, 0)
    return folder.commit(folder.begin_try(index), counts, [answer + b"\n"], errors)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out"


def recovered(path: Path, manifest: bytes = b"plan") -> dict[int, PartCounts]:
    with JobFolder(path, OutputFormat.JSONL) as folder:
        return folder.recover(manifest, 3)


def test_the_first_try_wins_with_all_of_its_files(path: Path):
    recovered(path)
    first, second = OutputFolder(path, OutputFormat.JSONL), OutputFolder(path, OutputFormat.JSONL)
    late = second.begin_try(1)
    assert commit(first, 1, b"first").num_failed == 0
    counts = second.commit(late, PartCounts(1, 0, 1, 0, 0), [b"second\n"], [b"error\n"])
    assert (counts.num_ok, counts.num_failed) == (1, 0)
    assert (path / "part-000001.jsonl").read_bytes() == b"first\n"
    assert not list((path / "errors").iterdir())
    assert not list(path.glob("_job/*.try-*"))


def test_what_is_committed_is_published_by_the_next_run_if_need_be(path: Path):
    recovered(path)
    folder = OutputFolder(path, OutputFormat.JSONL)
    commit(folder, 0, b"answer", b"error\n")
    mark = path / "_job/part-000000"
    (path / "part-000000.jsonl").rename(mark / "answers")
    folder.begin_try(2)
    assert recovered(path).keys() == {0}
    assert (path / "part-000000.jsonl").read_bytes() == b"answer\n"
    assert (path / "errors/part-000000.jsonl").read_bytes() == b"error\n"
    assert not list(path.glob("_job/*.try-*"))


def test_a_part_whose_answers_were_removed_is_done_anew(path: Path):
    recovered(path)
    folder = OutputFolder(path, OutputFormat.JSONL)
    commit(folder, 0, b"answer", b"error\n")
    (path / "part-000000.jsonl").unlink()
    assert recovered(path) == {}
    commit(folder, 0, b"better")
    assert (path / "part-000000.jsonl").read_bytes() == b"better\n"
    assert not (path / "errors/part-000000.jsonl").exists()


def test_a_part_that_kills_its_workers_ends_the_job(path: Path):
    recovered(path)
    folder = OutputFolder(path, OutputFormat.JSONL)
    for _ in range(10):
        folder.begin_try(2)
    with pytest.raises(ConfigError, match="part 2 was begun 10 times and never done"):
        folder.begin_try(2)


def test_answers_as_parquet(path: Path):
    with JobFolder(path, OutputFormat.PARQUET) as folder:
        folder.recover(b"plan", 1)
        commit(folder, 0, ANSWER)
    rows = pyarrow.parquet.read_table(path / "part-000000.parquet").to_pylist()
    assert rows == [{"id": "x", "custom_id": "a", "status_code": 200, "request_id": "r", "body": '{"n":1}'}]


def test_a_folder_of_another_job_or_of_something_else_is_refused(path: Path, tmp_path: Path):
    recovered(path)
    recovered(path, b"another plan, while nothing is done")
    commit(OutputFolder(path, OutputFormat.JSONL), 0, b"answer")
    with pytest.raises(ConfigError, match="holds parts of another job"):
        recovered(path, b"plan")
    with pytest.raises(ConfigError, match="is not empty and not of a batch job"):
        recovered(tmp_path)


def test_two_jobs_never_share_a_folder(path: Path):
    with JobFolder(path, OutputFormat.JSONL), pytest.raises(ConfigError, match="another batch job writes to"):
        recovered(path)
