"""Reads a pickle as plain data: no class of the file is ever imported, and nothing in it is called.

The one place that touches `pickle`; used by `torch_checkpoint.py` alone. What a pickle may name is a list: containers,
tensors (as `TensorRef`, which only says what it was made of) and their storages. A class that is not on the list and
of no known package is taken for a config: an instance becomes a `PlainObject` with its fields. All else is refused by
its name. Invariant: what is returned consists of plain values, `TensorRef` and `PlainObject`; nothing that the pickle
finds runs code of the file, or can be changed by it.
"""

import io
import pickle  # noqa: TID251 - only `pickle.Unpickler`, with a list of what it may find
import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NoReturn

from ipc.errors import ConfigError

MAX_PICKLE_BYTES = 64 * 2**20
MAX_DEPTH = 64
_KNOWN_PACKAGES = frozenset(sys.stdlib_module_names - {"__main__"}) | {
    *("torch", "numpy", "transformers"),
    *("__builtin__", "copy_reg", "cPickle", "commands", "exceptions"),  # what older protocols call modules
}
"""Where no config class of a user's own can be from."""
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_PLAIN = (type(None), bool, int, float, str, bytes)


@dataclass(frozen=True, slots=True)
class StorageRef:
    """Numbers of the file that one or more tensors show."""

    dtype: str
    key: str
    num_items: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor as the file describes it; nothing of it has been checked but the types."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlainObject:
    """An instance of a class that was not looked at."""

    class_name: str
    """With its module."""
    fields: dict[str, Any]


class RefusedPickleError(ConfigError):
    """The pickle names or does something that plain data does not need."""


def read_plain_pickle(content: bytes) -> Any:
    """The value of a pickle.

    Raises:
        RefusedPickleError: it is not plain data; names what is not.
        ConfigError: it is damaged.
    """
    if len(content) > MAX_PICKLE_BYTES:
        raise RefusedPickleError(f"a pickle of {len(content)} bytes")
    try:
        value = _Unpickler(io.BytesIO(content)).load()
        return _Plain().of(value)
    except ConfigError:
        raise
    except (
        *(pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, KeyError, IndexError),
        *(ImportError, OverflowError, MemoryError, RecursionError),
    ) as error:
        raise ConfigError(f"a damaged pickle: {type(error).__name__}: {' '.join(str(error).split())[:100]}") from error


# --- what a pickle finds in place of what it names -----------------------------------------------------------------


class _Fixed:
    """Something that a pickle can neither change nor build on."""

    __slots__ = ()

    def __setstate__(self, state: object) -> NoReturn:
        raise RefusedPickleError(f"a state for {type(self).__name__}")


class _StorageType(_Fixed):
    __slots__ = ("dtype",)

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


class _Rebuild(_Fixed):
    """`torch._utils._rebuild_tensor_v2` and `_rebuild_parameter`: describe, where torch would make."""

    __slots__ = ()

    def __call__(self, *arguments: object) -> object:
        match arguments:
            case (_TensorStandIn() as tensor, bool(), *_):  # a parameter
                return tensor
            case (StorageRef() as storage, int(offset), tuple(shape), tuple(stride), bool(), *_):
                if all(type(size) is int for size in (*shape, *stride)):
                    return _TensorStandIn(TensorRef(storage, offset, shape, stride))
        raise RefusedPickleError("a malformed tensor")


class _TensorStandIn(_Fixed):
    __slots__ = ("ref",)

    def __init__(self, ref: TensorRef) -> None:
        self.ref = ref


class _StandInType(type):
    """Of classes that a pickle may make instances of, as `object.__reduce_ex__` does, but may not call."""

    def __call__(cls, *arguments: object, **keywords: object) -> NoReturn:
        raise RefusedPickleError(f"a call of {cls.__name__}")

    def __setattr__(cls, name: str, value: object) -> NoReturn:
        raise RefusedPickleError(f"a change of {cls.__name__}")


def _new_stand_in(cls: type, *arguments: object) -> object:
    if arguments:
        raise RefusedPickleError(f"arguments for {cls.__name__}")
    return object.__new__(cls)


def _set_state(self: Any, state: object) -> None:
    if type(state) is not dict or not all(type(name) is str for name in state):
        raise RefusedPickleError(f"a state of {type(self).__name__} that is no map of names")
    object.__setattr__(self, "state", state)


def _stand_in_for(name: str) -> type:
    return _StandInType(name, (), {"__slots__": ("state",), "__new__": _new_stand_in, "__setstate__": _set_state})


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._stand_ins: dict[str, type] = {}
        self._found: dict[tuple[str, str], object] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(),
            ("torch._utils", "_rebuild_parameter"): _Rebuild(),
            ("torch", "Size"): tuple,
            **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGES.items()},
        }

    def find_class(self, module: str, name: str) -> Any:
        """What the pickle gets for a name; the real one only for two containers."""
        found = self._found.get((module, name))
        if found is not None:
            return found
        if module.partition(".")[0] in _KNOWN_PACKAGES:
            raise RefusedPickleError(f"{module}.{name}")
        full_name = f"{module}.{name}"
        if full_name not in self._stand_ins:
            self._stand_ins[full_name] = _stand_in_for(full_name)
        return self._stand_ins[full_name]

    def persistent_load(self, pid: Any) -> StorageRef:
        """A storage, as torch names it."""
        match pid:
            case ("storage", _StorageType(dtype=dtype), str(key), str(), int(num_items)):
                return StorageRef(dtype, key, num_items)
        raise RefusedPickleError("a persistent id that is no storage")


# --- after it ----------------------------------------------------------------------------------------------------


class _Plain:
    """Turns what was unpickled into plain values; what is shared is done once, however often it is named."""

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}

    def of(self, value: object, depth: int = 0) -> Any:
        """The value without stand-ins; raises `RefusedPickleError` for what is left of anything else."""
        if type(value) in _PLAIN:
            return value
        if id(value) not in self._done:
            if depth > MAX_DEPTH:
                raise RefusedPickleError("values inside each other without end")
            self._done[id(value)] = self._convert(value, depth + 1)
        return self._done[id(value)]

    def _convert(self, value: object, depth: int) -> Any:
        if type(value) is list:
            return [self.of(item, depth) for item in value]
        if type(value) is tuple:
            return tuple([self.of(item, depth) for item in value])
        if type(value) in (dict, OrderedDict):
            assert isinstance(value, dict)
            return {self.of(key, depth): self.of(item, depth) for key, item in value.items()}
        if isinstance(value, _TensorStandIn):
            return value.ref
        if isinstance(type(value), _StandInType):
            fields = self.of(value.state, depth) if hasattr(value, "state") else {}
            return PlainObject(type(value).__name__, fields)
        raise RefusedPickleError(f"a value of the type {type(value).__name__}")
