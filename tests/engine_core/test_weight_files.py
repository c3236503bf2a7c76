"""The headers of a model folder's weights, and what may be wrong with the index over several files."""

import contextlib
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_core.weight_files import StoredTensor, listed, stored_tensors
from ipc.errors import ConfigError
from tests.safetensors_files import header_of, write_safetensors

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path):
    """Two files with an index."""
    write_safetensors(tmp_path / "1.safetensors", a=("BF16", [2, 3]))
    write_safetensors(tmp_path / "2.safetensors", b=("F32", []))
    write_index(tmp_path, {"a": "1.safetensors", "b": "2.safetensors"})
    return tmp_path


def write_index(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def test_all_files_of_the_index_are_read(folder):
    write_safetensors(folder / "other.safetensors", c=("F32", [1]))
    assert stored_tensors(folder) == {
        "a": StoredTensor(folder / "1.safetensors", "BF16", (2, 3)),
        "b": StoredTensor(folder / "2.safetensors", "F32", ()),
    }


def test_a_single_file_goes_before_the_index(folder):
    write_safetensors(folder / "model.safetensors", c=("F32", [1]))
    assert set(stored_tensors(folder)) == {"c"}


def test_of_a_name_in_two_files_the_later_counts(folder):
    write_safetensors(folder / "2.safetensors", a=("F32", [7]), b=("F32", []))
    assert stored_tensors(folder)["a"].shape == (7,)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (None, "no weight_map"),
        ([], "no weight_map"),
        ({}, "no weight_map"),
        ({"a": 1}, "not '1'"),
        ({"a": None}, "not 'None'"),
        ({"a": ["1.safetensors"]}, "names files beside it"),
        ({"a": "../1.safetensors"}, r"not '\.\./1\.safetensors'"),
        ({"a": "/etc/passwd"}, "not '/etc/passwd'"),
        ({"a": ""}, r"names a file that is missing: $"),
        ({"a": "\0"}, "names files beside it"),
        ({"a": "3.safetensors"}, r"names a file that is missing: 3\.safetensors"),
        ({"a": "1.safetensors", "c": "2.safetensors"}, "names tensors that its files lack: c"),
    ],
)
def test_a_malformed_index_is_refused_with_the_name(folder, weight_map, message):
    write_index(folder, weight_map)
    with pytest.raises(ConfigError, match=message) as caught:
        stored_tensors(folder)
    assert "\n" not in caught.value.message


def test_an_index_that_is_no_json_is_refused(folder):
    (folder / INDEX).write_text("{")
    with pytest.raises(ConfigError, match=f"cannot read .*{INDEX}"):
        stored_tensors(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"[1]",
        b"{",
        b'{"a": 1}',
        b'{"a": {"dtype": 3, "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1]}}',
        b'{"a": {"dtype": "F32", "shape": {}, "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [0, 281474976710656], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [0%s], "data_offsets": [0, 0]}}' % (b",1" * 64),
        b"[" * 100_000,
    ],
)
def test_a_malformed_header_is_refused(tmp_path, header):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ConfigError, match=r"malformed .*model\.safetensors"):
        stored_tensors(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"neither model\.safetensors nor"):
        stored_tensors(tmp_path)


def test_long_lists_are_shortened():
    assert listed(["a", "b", "c"]) == "a, b, c"
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


# --- what the header says and the file does not hold ---


def write_raw(folder, header, num_bytes):
    encoded = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(num_bytes))


@pytest.mark.parametrize(
    ("change", "num_bytes", "message"),
    [
        ({}, 31, "31 bytes of data"),
        ({}, 33, "33 bytes of data"),
        ({"b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}}, 32, "b"),
        ({"b": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, 32, "b"),
        ({"b": {"dtype": "F32", "shape": [4], "data_offsets": [20, 36]}}, 36, "b"),
        ({"b": {"dtype": "F32", "shape": [5], "data_offsets": [16, 32]}}, 32, "b"),
        ({"b": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [16, 32]}}, 32, "b"),
        ({"b": {"dtype": "F32", "shape": [4], "data_offsets": [16, 2**63]}}, 32, "b"),
        ({"b": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}, 32, "b"),
        ({"b": {"dtype": "F32", "shape": [4], "data_offsets": [16]}}, 32, ""),
        ({"b": {"dtype": "F33", "shape": [4], "data_offsets": [16, 32]}}, 32, "F33"),
    ],
)
def test_a_header_that_contradicts_its_file_is_refused(tmp_path, change, num_bytes, message):
    header, _ = header_of(a=("F32", [2, 2]), b=("F32", [4]))
    write_raw(tmp_path, header | change, num_bytes)
    with pytest.raises(ConfigError, match=rf"malformed .*{message}") as caught:
        stored_tensors(tmp_path)
    assert "\n" not in caught.value.message


def test_a_name_that_comes_twice_is_refused(tmp_path):
    entry = b'"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}'
    encoded = b"{" + entry + b", " + entry + b"}"
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + b"x")
    with pytest.raises(ConfigError, match="malformed"):
        stored_tensors(tmp_path)


def test_tensors_without_elements_are_fine(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", a=("F32", [0, 7]), b=("F32", [1]), c=("F32", [3, 0]))
    assert set(stored_tensors(tmp_path)) == {"a", "b", "c"}


@given(position=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 500))
def test_whatever_byte_is_wrong_nothing_but_a_config_error_comes(tmp_path_factory, position, value, cut):
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    folder.mkdir(exist_ok=True)
    path = folder / "model.safetensors"
    write_safetensors(path, a=("BF16", [3, 5]), b=("F32", []), c=("I64", [2]))
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content[: len(content) - cut] if cut < 100 else content)
    tensors = {}
    with contextlib.suppress(ConfigError):
        tensors = stored_tensors(folder)
    assert all(sum(tensor.shape) < 1000 for tensor in tensors.values())
