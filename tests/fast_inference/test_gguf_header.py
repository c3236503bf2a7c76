"""Headers of GGUF files that lie about their file."""

import contextlib
import struct

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_inference import gguf_header
from fast_inference.gguf_header import check_gguf
from ipc.errors import ConfigError


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """What the gguf library writes."""
    path = tmp_path_factory.mktemp("gguf") / "good.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.context_length", 128)
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", "def"])
    writer.add_array("numbers", [1.5, 2.5])
    writer.add_custom_alignment(64)
    writer.add_tensor("a", np.arange(64, dtype=np.float32).reshape(2, 32))
    quantized = gguf.quants.quantize(np.ones((2, 64), dtype=np.float32), gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("b", quantized, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def test_what_the_library_writes_passes(tmp_path, good):
    (tmp_path / "m.gguf").write_bytes(good)
    check_gguf(tmp_path / "m.gguf")


def test_the_sizes_of_blocks_are_those_of_the_library():
    of_library = {int(kind): sizes for kind, sizes in gguf.constants.GGML_QUANT_SIZES.items()}
    assert {kind: of_library[kind] for kind in gguf_header._BLOCKS} == gguf_header._BLOCKS


def header(num_tensors=0, num_fields=0, rest=b"", version=3, magic=b"GGUF"):
    return magic + struct.pack("<IQQ", version, num_tensors, num_fields) + rest


def text(value):
    return struct.pack("<Q", len(value)) + value


def tensor(name=b"t", shape=(32,), kind=0, offset=0):
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dimensions + struct.pack("<IQ", kind, offset)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"GGUF", "ends inside"),
        (header(magic=b"GGML"), "does not begin"),
        (header(version=1), "version 1"),
        (header(num_tensors=2**60), f"{2**60} tensors"),
        (header(num_fields=2**60), f"{2**60} fields"),
        (header(num_tensors=5), "ends inside"),
        (header(num_fields=1, rest=struct.pack("<Q", 2**63)), "a string of"),
        (header(num_fields=1, rest=text(b"k") + struct.pack("<I", 13)), "unknown type 13"),
        (header(num_fields=1, rest=text(b"k") + struct.pack("<IQ", 8, 2**62)), "a string of"),
        (header(num_fields=1, rest=text(b"k") + struct.pack("<IIQ", 9, 4, 2**62)), "ends inside"),
        (header(num_fields=1, rest=text(b"k") + struct.pack("<IIQ", 9, 8, 2**62)), "strings in the rest"),
        (header(num_fields=1, rest=text(b"k") + struct.pack("<IIQ", 9, 9, 1)), "unknown type 9"),
        (header(num_fields=2, rest=2 * (text(b"k") + struct.pack("<II", 4, 1))), "'k' comes twice"),
        (header(num_fields=1, rest=text(b"general.alignment") + struct.pack("<II", 4, 3)), "alignment of 3"),
        (header(num_fields=1, rest=text(b"general.alignment") + struct.pack("<II", 4, 0)), "alignment of 0"),
        (header(num_tensors=1, rest=tensor(shape=(2**40, 2**40))), "impossible size"),
        (header(num_tensors=1, rest=tensor(shape=(0,))), "impossible size"),
        (header(num_tensors=1, rest=tensor(shape=(31,), kind=2)), "impossible size"),
        (header(num_tensors=1, rest=tensor(offset=7)), "impossible size or place"),
        (header(num_tensors=1, rest=tensor(kind=5)), "unknown type 5"),
        (header(num_tensors=1, rest=tensor(shape=(1,) * 9)), "9 dimensions"),
        (header(num_tensors=1, rest=tensor() + bytes(100)), "tensors up to byte"),
        (header(num_tensors=1, rest=tensor(offset=2**62) + bytes(200)), "tensors up to byte"),
        (header(num_tensors=2, rest=tensor() + tensor(b"u", offset=64) + bytes(500)), "share bytes"),
        (header(num_tensors=2, rest=2 * tensor() + bytes(500)), "'t' comes twice"),
    ],
)
def test_a_lie_is_one_line(tmp_path, content, message):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        check_gguf(tmp_path / "m.gguf")
    assert "\n" not in caught.value.message


def test_the_strings_of_all_arrays_have_a_limit(tmp_path, monkeypatch):
    array = struct.pack("<IIQ", 9, 8, 3) + 3 * text(b"")
    (tmp_path / "m.gguf").write_bytes(header(num_fields=2, rest=text(b"k") + array + text(b"l") + array))
    check_gguf(tmp_path / "m.gguf")
    monkeypatch.setattr(gguf_header, "MAX_STRINGS", 5)
    with pytest.raises(ConfigError, match="6 strings"):
        check_gguf(tmp_path / "m.gguf")


@given(position=st.integers(0, 600), value=st.binary(min_size=1, max_size=8), cut=st.integers(0, 900))
def test_wherever_bytes_are_wrong_nothing_but_a_config_error_comes(tmp_path_factory, good, position, value, cut):
    path = tmp_path_factory.getbasetemp() / "fuzzed.gguf"
    content = bytearray(good)
    content[position : position + len(value)] = value
    path.write_bytes(content[: len(content) - cut] if cut < 300 else content)
    with contextlib.suppress(ConfigError):
        check_gguf(path)
        assert path.stat().st_size >= len(good) - 300
