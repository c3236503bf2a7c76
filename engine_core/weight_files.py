"""Which safetensors files a model folder has, and what their headers say is in them.

Only headers are read here, so it needs no torch: `memory_plan.py` counts parameters, and `model/decoder/checkpoint.py`
compares with what a network needs before it reads the tensors. Everything wrong with the files is a `ConfigError`.
Invariant: the tensors that are returned fill their files without a gap and without sharing a byte.
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_core.config_values import read_json_object
from ipc.errors import ConfigError

_WEIGHTS_FILE = "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"
_MAX_HEADER_BYTES = 100 * 2**20
_BITS_BY_WIDTH = {
    64: ("F64", "I64", "U64", "C64"),
    32: ("F32", "I32", "U32"),
    16: ("F16", "BF16", "I16", "U16"),
    8: ("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
    6: ("F6_E2M3", "F6_E3M2"),
    4: ("F4",),
}
_BITS = {dtype: bits for bits, dtypes in _BITS_BY_WIDTH.items() for dtype in dtypes}
FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})
"""Of weights that a network is computed with."""
Shapes = dict[str, tuple[int, ...]]
"""Of tensors, by name."""
_MAX_DIMENSIONS = 64
_MAX_ITEMS = 2**48
_MAX_NAMED = 3
"""Names in a message; of more, the number."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file, as the file's header describes it."""

    path: Path
    dtype: str
    """As safetensors names it, such as `BF16`."""
    shape: tuple[int, ...]


def stored_tensors(model_dir: Path) -> dict[str, StoredTensor]:
    """All tensors of a model folder by name; of a name in two files, the later file's, as in transformers.

    Raises:
        ConfigError: a file is missing or damaged, or the index names tensors that its files do not have.
    """
    weight_map = _weight_map(model_dir)
    tensors: dict[str, StoredTensor] = {}
    for file_name in sorted(set(weight_map.values())) if weight_map else [_WEIGHTS_FILE]:
        tensors.update(_read_header(model_dir / file_name))
    missing = sorted(weight_map.keys() - tensors.keys())
    if missing:
        raise ConfigError(f"{model_dir / _INDEX_FILE} names tensors that its files lack: {listed(missing)}")
    return tensors


def tensors_of_file(path: Path) -> dict[str, StoredTensor]:
    """All tensors of one safetensors file by name; raises `ConfigError` where it is missing or damaged."""
    return _read_header(path)


def refuse_missing(model_dir: Path, stored: Mapping[str, StoredTensor], needed: Shapes) -> None:
    """Raise `ConfigError` where a tensor that a network needs is not there."""
    missing = [name for name in needed if name not in stored]
    if missing:
        raise ConfigError(f"cannot load {model_dir}: {listed(missing)} {'is' if len(missing) == 1 else 'are'} missing")


def refuse_other_kinds(model_dir: Path, stored: Mapping[str, StoredTensor], needed: Shapes) -> None:
    """Raise `ConfigError` where a needed tensor, all of which are there, has another shape or no decimal numbers."""
    wrong = [
        f"{name} has the shape {list(stored[name].shape)} instead of {list(shape)}"
        for name, shape in needed.items()
        if stored[name].shape != shape
    ]
    wrong += [f"{name} has the type {stored[name].dtype}" for name in needed if stored[name].dtype not in FLOAT_DTYPES]
    if wrong:
        raise ConfigError(f"cannot load {model_dir}: {listed(wrong)}")


def listed(names: list[str]) -> str:
    """Some names for a message."""
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def _weight_map(model_dir: Path) -> dict[str, str]:
    """Name of the file of each tensor; empty where there is one file for all."""
    index = model_dir / _INDEX_FILE
    if (model_dir / _WEIGHTS_FILE).is_file():
        return {}
    if not index.is_file():
        raise ConfigError(f"{model_dir} has neither {_WEIGHTS_FILE} nor {_INDEX_FILE} (other formats are not read)")
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"malformed {index}: no weight_map")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or "\0" in name:
            raise ConfigError(f"malformed {index}: a weight_map names files beside it, not {str(name)[:60]!r}")
        if not (model_dir / name).is_file():
            raise ConfigError(f"{index} names a file that is missing: {name}")
    return weight_map


def _read_header(path: Path) -> dict[str, StoredTensor]:
    """A safetensors file begins with the length of its header, a u64, and a JSON map of names to types and shapes."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER_BYTES:
                raise ConfigError(f"malformed {path}: a header of {length} bytes")
            encoded = file.read(length)
            num_data_bytes = os.fstat(file.fileno()).st_size - 8 - length
        if len(encoded) != length:
            raise ConfigError(f"malformed {path}: it ends inside its header")
        header: dict[str, Any] = json.loads(encoded, object_pairs_hook=_without_repetition)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        stored = {name: _stored(path, entry) for name, entry in entries.items()}
        _check_places(path, entries, num_data_bytes)
        return stored
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"malformed {path}") from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name comes twice")
    return values


def _check_places(path: Path, entries: dict[str, dict[str, Any]], num_data_bytes: int) -> None:
    """Raise `ConfigError` unless the tensors, in order of their places, fill the file's data."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        start, next_end = entry["data_offsets"]
        if entry["dtype"] not in _BITS:
            raise ConfigError(f"malformed {path}: {name[:60]!r} has the unknown type {entry['dtype'][:20]!r}")
        num_bits = math.prod(entry["shape"]) * _BITS[entry["dtype"]]
        if type(start) is not int or start != end or (next_end - start) * 8 != num_bits:
            raise ConfigError(f"malformed {path}: the place of {name[:60]!r} does not fit its size or its neighbours")
        end = next_end
    if end != num_data_bytes:
        raise ConfigError(f"malformed {path}: {num_data_bytes} bytes of data instead of {end}")


def _stored(path: Path, entry: dict[str, Any]) -> StoredTensor:
    dtype, shape = entry["dtype"], entry["shape"]
    if not isinstance(dtype, str) or not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError("no dtype and shape")
    if not all(type(size) is int and 0 <= size < _MAX_ITEMS for size in shape):
        raise ValueError("an impossible size")
    return StoredTensor(path, dtype, tuple(shape))
