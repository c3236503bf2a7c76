"""Reads checkpoints of `torch.save` (.pt, .pth, .bin) as plain data, without ever running what they say.

A file is a zip archive: `NAME/data.pkl` describes, `NAME/data/KEY` holds the numbers. The description is read by
`restricted_unpickler.py`; the numbers are taken by their size. `torch.load` is used nowhere.
Invariant: memory is taken only for what the file really holds.
"""

import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from engine_core.model.pickle_names import StorageRef, TensorRef
from engine_core.model.restricted_unpickler import read_plain_pickle
from ipc.errors import ConfigError

MAX_ENTRIES = 2**17
_DAMAGED = (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, struct.error)
"""What zipfile raises: also NotImplementedError, and UnicodeDecodeError for names."""


def read_torch_checkpoint(path: Path) -> Any:
    """The value that was saved: containers, numbers, strings, CPU tensors, and `PlainObject` for instances of classes.

    Raises:
        ConfigError: the file is damaged, of the form before torch 1.6, or holds anything else; one line.
    """
    try:
        with _opened(path) as archive:
            return _read(archive, path.stat().st_size)
    except OSError as error:
        raise ConfigError(f"cannot load {path}: {error.strerror or error}") from error
    except ConfigError as error:
        raise ConfigError(f"cannot load {path}: refused {error.message}") from error


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise ConfigError("what is no checkpoint of torch.save (of torch 1.6 or later)") from error


def _read(archive: zipfile.ZipFile, num_file_bytes: int) -> Any:
    entries = {entry.filename: entry for entry in archive.infolist()}
    if sum(entry.file_size for entry in entries.values()) > num_file_bytes:
        raise ConfigError("entries that are larger than the file: compressed, or one inside of another")
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1 or len(entries) > MAX_ENTRIES:
        raise ConfigError("an archive without one data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    order = entries.get(f"{root}byteorder")
    if order is not None and _content(archive, order) != b"little":
        raise ConfigError("numbers that are not little-endian")
    return read_plain_pickle(_content(archive, entries[pickles[0]]), _Tensors(archive, entries, root).make)


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Of an entry as it lies in the file: compressed ones could unfold to anything."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise ConfigError(f"the compressed entry {entry.filename[:60]!r}")
    try:
        return archive.read(entry)
    except _DAMAGED as error:
        raise ConfigError(f"the damaged entry {entry.filename[:60]!r}") from error


class _Tensors:
    """Makes tensors of their descriptions; those with one storage share its memory."""

    def __init__(self, archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], root: str) -> None:
        self._archive = archive
        self._entries = entries
        self._root = root
        self._storages: dict[StorageRef, torch.Tensor] = {}
        self._contents: dict[str, bytearray] = {}
        """By key: of several types too, the numbers are read once."""

    def make(self, ref: TensorRef) -> torch.Tensor:
        """The tensor; raises `ConfigError` where the file does not hold its numbers."""
        storage = self._storage(ref.storage)
        sizes = (ref.offset, *ref.shape, *ref.stride)
        if len(ref.shape) != len(ref.stride) or not all(0 <= size < 2**48 for size in sizes):
            raise ConfigError("a tensor of an impossible shape")
        reach = sum((size - 1) * stride for size, stride in zip(ref.shape, ref.stride, strict=True))
        num_items = math.prod(ref.shape)
        if num_items > len(storage) or (num_items and ref.offset + reach >= len(storage)):
            raise ConfigError("a tensor that is larger than its numbers")
        return storage.as_strided(ref.shape, ref.stride, ref.offset if num_items else 0)

    def _storage(self, ref: StorageRef) -> torch.Tensor:
        if ref not in self._storages:
            dtype: torch.dtype = getattr(torch, ref.dtype)
            entry = self._entries.get(f"{self._root}data/{ref.key}")
            if entry is None or not ref.key.isdecimal() or entry.file_size != ref.num_items * dtype.itemsize:
                raise ConfigError(f"numbers of another size than {ref.num_items} of {ref.dtype}")
            if ref.key not in self._contents:
                self._contents[ref.key] = bytearray(_content(self._archive, entry))
            content = self._contents[ref.key]
            self._storages[ref] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self._storages[ref]
