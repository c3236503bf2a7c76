"""Inputs of all forms are cut into blocks, each of which can be read again on its own."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from fast_inference.ray_batch.plan import Block, plan_blocks, read_block
from frontend.batch.lines import BatchLine, WrongLine, parse_line
from ipc.errors import ConfigError

MAX_BODY_BYTES = 1000


def line(number: int) -> dict[str, object]:
    return {"custom_id": f"id-{number}", "method": "POST", "url": "/v1/completions", "body": {"prompt": f"{number}"}}


def jsonl(*numbers: int) -> bytes:
    return b"".join(json.dumps(line(number)).encode() + b"\n" for number in numbers)


def ids(root: Path, block: Block) -> list[str]:
    return [json.loads(content or b"{}")["custom_id"] for _, content in read_block(root, block, 1000).read_portion()]


def test_blocks_of_all_forms_are_read_again_from_where_they_begin(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(0, 1) + b"\n \n" + jsonl(2, 3, 4))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(jsonl(5, 6, 7, 8)))
    rows = [{**line(number), "body": json.dumps({"prompt": "p"})} for number in range(9, 16)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet", row_group_size=2)
    (tmp_path / "_logs").mkdir()
    (tmp_path / "_logs/d.jsonl").write_bytes(b"no part of the input")
    blocks = list(plan_blocks(tmp_path, 3, MAX_BODY_BYTES))
    assert [(block.name, block.num_lines) for block in blocks] == [
        ("a.jsonl", 3), ("a.jsonl", 2), ("b.jsonl.gz", 3), ("b.jsonl.gz", 1),
        ("c.parquet", 3), ("c.parquet", 3), ("c.parquet", 1),
    ]  # fmt: skip
    found = [custom_id for block in reversed(blocks) for custom_id in reversed(ids(tmp_path, block))]
    assert found == [f"id-{number}" for number in range(15, -1, -1)]
    assert [Block.from_json(block.to_json()) for block in blocks] == blocks


def test_a_custom_id_that_comes_twice_is_known_wherever_its_lines_are(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(0, 1, 2) + b"no JSON\n")
    (tmp_path / "b.jsonl").write_bytes(jsonl(3, 1) + b"no JSON\n" + jsonl(3))
    assert [block.duplicates for block in plan_blocks(tmp_path, 2, MAX_BODY_BYTES)] == [(), (), (2,), (4,)]


def test_an_input_that_changes_under_a_job_is_noticed(tmp_path: Path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(jsonl(0, 1))
    (block,) = plan_blocks(path, 10, MAX_BODY_BYTES)
    path.write_bytes(jsonl(0, 2))
    with pytest.raises(ConfigError, match="has changed while the job runs"):
        read_block(path, block, MAX_BODY_BYTES)


def test_a_struct_leaves_out_what_is_null_and_a_text_does_not(tmp_path: Path):
    path = tmp_path / "in.parquet"
    rows = [
        {"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "x", "seed": None, "stop": ["."]}},
        {"custom_id": "b", "url": "/v1/completions", "body": {"prompt": "y", "seed": 1, "stop": None}},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    (block,) = plan_blocks(path, 10, MAX_BODY_BYTES)
    lines = [json.loads(content or b"") for _, content in read_block(path, block, MAX_BODY_BYTES).read_portion()]
    assert [line["body"] for line in lines] == [{"prompt": "x", "stop": ["."]}, {"prompt": "y", "seed": 1}]
    assert {line["method"] for line in lines} == {"POST"}


def test_a_row_that_is_nested_too_deep_is_a_wrong_line_and_no_end(tmp_path: Path):
    path = tmp_path / "in.parquet"
    rows = [{**line(0), "body": '{"a":' * 300 + "1" + "}" * 300}, {**line(1), "body": "{}"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    (block,) = plan_blocks(path, 10, 10_000)
    found = [parse_line(content or b"", number) for number, content in read_block(path, block, 10_000).read_portion()]
    assert [type(item) for item in found] == [WrongLine, BatchLine]


@pytest.mark.parametrize("content", ["nothing", "text", "no body", "bytes that are no UTF-8"])
def test_what_is_no_input_is_refused(tmp_path: Path, content: str):
    if content == "text":
        (tmp_path / "in.parquet").write_text("no Parquet")
    elif content == "no body":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"custom_id": "a"}]), tmp_path / "in.parquet")
    elif content == "bytes that are no UTF-8":
        offsets = pyarrow.array([0, 2], pyarrow.int32()).buffers()[1]
        ids = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, offsets, pyarrow.py_buffer(b"\xff\xfe")])
        table = pyarrow.table({"custom_id": ids, "url": ["/v1/completions"], "body": ["{}"]})
        pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(ConfigError):
        list(plan_blocks(tmp_path, 10, MAX_BODY_BYTES))
