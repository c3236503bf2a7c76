"""Safetensors files whose data is a hole: right in every respect, and small on disk."""

import json
import math
import os
import struct
from pathlib import Path

ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1, "F8_E4M3": 1}


def header_of(**tensors: tuple[str, list[int]]) -> tuple[dict[str, dict], int]:
    """The entries of tensors given as (dtype, shape), and how many bytes they take."""
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + math.prod(shape) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    return header, end


def write_safetensors(path: Path, **tensors: tuple[str, list[int]]) -> None:
    header, num_bytes = header_of(**tensors)
    encoded = json.dumps(header | {"__metadata__": {"format": "pt"}}).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded)
    os.truncate(path, 8 + len(encoded) + num_bytes)
