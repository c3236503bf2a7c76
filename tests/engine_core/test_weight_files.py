"""The headers of a model folder's weights, and what may be wrong with the index over several files."""

import json
import struct

import pytest

from engine_core.weight_files import StoredTensor, listed, stored_tensors
from ipc.errors import ConfigError

INDEX = "model.safetensors.index.json"


def write(path, **tensors):
    header = {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in tensors.items()}
    encoded = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded)


@pytest.fixture
def folder(tmp_path):
    """Two files with an index."""
    write(tmp_path / "1.safetensors", a=("BF16", [2, 3]))
    write(tmp_path / "2.safetensors", b=("F32", []))
    write_index(tmp_path, {"a": "1.safetensors", "b": "2.safetensors"})
    return tmp_path


def write_index(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def test_all_files_of_the_index_are_read(folder):
    write(folder / "other.safetensors", c=("F32", [1]))
    assert stored_tensors(folder) == {
        "a": StoredTensor(folder / "1.safetensors", "BF16", (2, 3)),
        "b": StoredTensor(folder / "2.safetensors", "F32", ()),
    }


def test_a_single_file_goes_before_the_index(folder):
    write(folder / "model.safetensors", c=("F32", [1]))
    assert set(stored_tensors(folder)) == {"c"}


def test_of_a_name_in_two_files_the_later_counts(folder):
    write(folder / "2.safetensors", a=("F32", [7]), b=("F32", []))
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
    [b"[1]", b"{", b'{"a": 1}', b'{"a": {"dtype": 3, "shape": [1]}}', b'{"a": {"dtype": "F32", "shape": [-1]}}'],
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
