"""What a pickle of plain data may name and do, and what it gets in place of it.

The names are a list: OrderedDict, tensors (as `TensorRef`, which only says what it was made of) and their storages.
Other classes of no known package are taken for configs, of which only the fields are kept. All else is refused by its
name. Used by `restricted_unpickler.py`. Invariant: nothing is imported and nothing of the pickle is called.
"""

import enum
import sys
from dataclasses import dataclass, field
from typing import Any

from ipc.errors import ConfigError

MAX_DIMENSIONS = 64
_MAX_KEY_PARTS = 8
_MAX_INT_KEY = 2**60
"""Larger ones could be chosen to have the same hash."""
_MAX_ITEMS = 2**48
_MAX_NAME_CHARS = 200
_MAX_FIELDS = 256
"""Of an instance."""
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


class _Known(enum.Enum):
    """What may be called, and is done here instead."""

    ORDERED_DICT = "collections.OrderedDict"
    TENSOR = "torch._utils._rebuild_tensor_v2"
    PARAMETER = "torch._utils._rebuild_parameter"
    SIZE = "torch.Size"


@dataclass(frozen=True, slots=True)
class _StorageType:
    dtype: str


@dataclass(frozen=True, slots=True)
class _ClassName:
    full_name: str


@dataclass(slots=True)
class Instance:
    """Becomes a `PlainObject`."""

    class_name: str
    state: dict[Any, Any] = field(default_factory=dict)


_KNOWN = {known.value: known for known in _Known}


def found(module: str, name: str) -> object:
    """What the pickle gets for a name; raises `RefusedPickleError`."""
    full_name = f"{module}.{name}"
    if len(full_name) > _MAX_NAME_CHARS or not full_name.isprintable():
        raise RefusedPickleError(f"the name {full_name[:40]!a}")
    if full_name in _KNOWN:
        return _KNOWN[full_name]
    if module == "torch" and name in _STORAGES:
        return _StorageType(_STORAGES[name])
    if module.partition(".")[0] in _KNOWN_PACKAGES:
        raise RefusedPickleError(full_name)
    return _ClassName(full_name)


def called(function: object, arguments: object) -> object:
    """What a call gives; raises `RefusedPickleError`."""
    match function, arguments:
        case _Known.ORDERED_DICT, ():
            return {}
        case _Known.SIZE, (tuple() | list() as sizes,) if len(sizes) <= MAX_DIMENSIONS:
            return tuple(sizes)
        case _Known.PARAMETER, (TensorRef() as tensor, bool(), *_):
            return tensor
        case _Known.TENSOR, (StorageRef() as storage, int(offset), tuple(shape), tuple(stride), bool(), *_):
            if len(shape) <= MAX_DIMENSIONS and all(type(size) is int for size in (*shape, *stride)):
                return TensorRef(storage, offset, shape, stride)
    raise RefusedPickleError("a malformed tensor" if function is _Known.TENSOR else f"a call of {name_of(function)}")


def new(named: object, arguments: object) -> Instance:
    """An instance of what was named; raises `RefusedPickleError`."""
    if not isinstance(named, _ClassName):
        raise RefusedPickleError(f"an instance of {name_of(named)}")
    if arguments != ():
        raise RefusedPickleError(f"arguments for {named.full_name}")
    return Instance(named.full_name)


def give_state(value: object, state: object) -> None:
    """Fill an instance; raises `RefusedPickleError`."""
    if isinstance(value, Instance):
        if type(state) is not dict or len(state) > _MAX_FIELDS or not all(type(name) is str for name in state):
            raise RefusedPickleError(f"a state of {name_of(value)} that is no map of names")
        value.state = state
    elif type(value) is not dict or type(state) is not dict:  # an OrderedDict's attributes are no part of it
        raise RefusedPickleError(f"a state for {name_of(value)}")


def storage(pid: object) -> StorageRef:
    """A storage, as torch names it; raises `RefusedPickleError`."""
    match pid:
        case ("storage", _StorageType(dtype=dtype), str(key), str(), int(num_items)) if 0 <= num_items < _MAX_ITEMS:
            return StorageRef(dtype, key, num_items)
    raise RefusedPickleError("a persistent id that is no storage")


def put(items: object, key: object, value: object) -> None:
    """Put an item into a dict; keys are such that hashes are cheap and cannot be chosen to be the same.

    Raises:
        RefusedPickleError: the key is none of these.
        ValueError: it is no dict.
    """
    if type(items) is not dict:
        raise ValueError("items for what is no dict")
    is_plain = type(key) in (type(None), bool, str, bytes) or (type(key) is int and abs(key) < _MAX_INT_KEY)
    if not is_plain and not (type(key) is tuple and len(key) <= _MAX_KEY_PARTS and all(type(k) is str for k in key)):
        raise RefusedPickleError(f"a key of the type {name_of(key)}")
    items[key] = value


def name_of(value: object) -> str:
    """What a message calls it."""
    match value:
        case _Known():
            return value.value
        case _ClassName(full_name=name) | Instance(class_name=name):
            return name
    return type(value).__name__
