"""Checks the header of a GGUF file against the file, before anything that believes it reads it.

Called first by `gguf_conversion.py`: the gguf library takes counts and lengths as they are. The layout is that of the
GGUF specification, versions 2 and 3, little-endian. Invariant: after `check_gguf` every count is one that the file has
room for, every type is known, and the tensors lie within the file without sharing a byte.
"""

import math
import mmap
import struct
from collections.abc import Callable
from pathlib import Path

from ipc.errors import ConfigError

MAX_FIELDS = 2**16
MAX_TENSORS = 2**18
MAX_STRINGS = 2**22
"""In all arrays; a vocabulary has tokens and merges, some hundred thousand each."""
MAX_NAME_BYTES = 2**16
MAX_DIMENSIONS = 4
_MAX_ITEMS = 2**48
_DEFAULT_ALIGNMENT = 32
_VERSIONS = (2, 3)
_UINT32, _STRING, _ARRAY = 4, 8, 9
_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Of the scalar types of metadata."""
_BLOCKS = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)},
    **{16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82)},
    **{23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2)},
    **{34: (256, 54), 35: (256, 66), 39: (32, 17)},
}
"""Of each tensor type: numbers in a block, and bytes of a block."""


def check_gguf(path: Path) -> None:
    """Raise `ConfigError`, of one line, where a GGUF file contradicts itself."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _Header(content).check()
    except (OSError, ValueError) as error:  # mmap calls an empty file a ValueError
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"cannot read {path.name}: {reason}") from error
    except ConfigError as error:
        raise ConfigError(f"malformed {path.name}: {error.message}") from error


class _Header:
    """One pass over a header."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._size = len(content)
        self._position = 0
        self._alignment = _DEFAULT_ALIGNMENT
        self._num_strings = 0

    def check(self) -> None:
        """Everything, in the order of the file."""
        if self._take(4) != b"GGUF":
            raise ConfigError("it does not begin with GGUF")
        version = self._number("<I")
        if version not in _VERSIONS:
            raise ConfigError(f"version {version}; versions 2 and 3 are read")
        num_tensors, num_fields = self._number("<Q"), self._number("<Q")
        if num_tensors > MAX_TENSORS or num_fields > MAX_FIELDS:
            raise ConfigError(f"{num_tensors} tensors and {num_fields} fields")
        self._distinct(num_fields, self._field, "field")
        places: list[tuple[int, int]] = []
        self._distinct(num_tensors, lambda: self._tensor(places), "tensor")
        self._check_places(places)

    def _distinct(self, count: int, read: Callable[[], bytes], kind: str) -> None:
        names: set[bytes] = set()
        for _ in range(count):
            name = read()
            if name in names:
                raise ConfigError(f"the {kind} {name[:60].decode(errors='replace')!r} comes twice")
            names.add(name)

    def _field(self) -> bytes:
        name = self._string(MAX_NAME_BYTES)
        kind = self._number("<I")
        if kind == _ARRAY:
            self._array()
        elif kind == _STRING:
            self._string(self._size)
        else:
            value = self._take(_bytes_of(kind))
            if name == b"general.alignment":
                self._set_alignment(kind, value)
        return name

    def _array(self) -> None:
        kind, count = self._number("<I"), self._number("<Q")
        if kind == _STRING:
            if count * 8 > self._size - self._position:
                raise ConfigError(f"{count} strings in the rest of the file")
            self._num_strings += count
            if self._num_strings > MAX_STRINGS:
                raise ConfigError(f"{self._num_strings} strings")
            for _ in range(count):
                self._string(self._size)
        else:
            self._skip(count * _bytes_of(kind))

    def _set_alignment(self, kind: int, value: bytes) -> None:
        alignment = int.from_bytes(value, "little")
        if kind != _UINT32 or alignment & (alignment - 1) or not 1 <= alignment <= 2**20:
            raise ConfigError(f"an alignment of {alignment}")
        self._alignment = alignment

    def _tensor(self, places: list[tuple[int, int]]) -> bytes:
        name = self._string(MAX_NAME_BYTES)
        shown = name[:60].decode(errors="replace")
        num_dimensions = self._number("<I")
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            raise ConfigError(f"{shown!r} has {num_dimensions} dimensions")
        shape = [self._number("<Q") for _ in range(num_dimensions)]
        kind, offset = self._number("<I"), self._number("<Q")
        num_items = math.prod(shape)
        if kind not in _BLOCKS:
            raise ConfigError(f"{shown!r} has the unknown type {kind}")
        block_items, block_bytes = _BLOCKS[kind]
        if not 1 <= num_items <= _MAX_ITEMS or shape[0] % block_items or offset % self._alignment:
            raise ConfigError(f"{shown!r} has an impossible size or place")
        places.append((offset, offset + num_items // block_items * block_bytes))
        return name

    def _check_places(self, places: list[tuple[int, int]]) -> None:
        """Tensors are in the file, and share nothing."""
        data_start = -(-self._position // self._alignment) * self._alignment
        last_end = 0
        for start, end in sorted(places):
            if start < last_end:
                raise ConfigError("two tensors share bytes")
            last_end = end
        if places and data_start + last_end > self._size:
            raise ConfigError(f"tensors up to byte {data_start + last_end} of {self._size}")

    def _string(self, max_bytes: int) -> bytes:
        length = self._number("<Q")
        if length > max_bytes:
            raise ConfigError(f"a string of {length} bytes")
        return self._take(length)

    def _number(self, layout: str) -> int:
        number: int
        (number,) = struct.unpack(layout, self._take(struct.calcsize(layout)))
        return number

    def _take(self, count: int) -> bytes:
        start = self._position
        self._skip(count)
        return self._content[start : self._position]

    def _skip(self, count: int) -> None:
        if count > self._size - self._position:
            raise ConfigError("it ends inside its header")
        self._position += count


def _bytes_of(kind: int) -> int:
    if kind not in _VALUE_BYTES:
        raise ConfigError(f"a value of the unknown type {kind}")
    return _VALUE_BYTES[kind]
