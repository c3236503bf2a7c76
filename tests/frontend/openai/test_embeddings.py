"""How vectors are written."""

import base64
import struct

from frontend.openai.embeddings import encode_vector


def test_base64_is_little_endian_float32():
    encoded = encode_vector([1.0, -0.5], "base64")
    assert isinstance(encoded, str)
    assert struct.unpack("<2f", base64.b64decode(encoded)) == (1.0, -0.5)


def test_float_is_plain_numbers():
    assert encode_vector([1.0, -0.5], "float") == [1.0, -0.5]
