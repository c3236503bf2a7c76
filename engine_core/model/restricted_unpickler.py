"""Reads a pickle as plain data: a machine that knows the opcodes which plain data needs, and nothing of Python.

Used by `torch_checkpoint.py` alone. The standard unpickler is no part of it: besides what it calls, a few bytes make it
take gigabytes (a memo of 2**31 places) or end the process (the hash of a tuple inside of a million others).
Invariants: what is returned consists of plain values, tensors and `PlainObject`; an opcode takes a bounded time,
and no more memory than its own bytes need. Next: `pickle_names.py`, which says what each name becomes.
"""

import io
import pickletools
from collections.abc import Callable
from typing import Any

from engine_core.model.pickle_names import (
    Instance,
    PlainObject,
    RefusedPickleError,
    TensorRef,
    called,
    found,
    give_state,
    name_of,
    new,
    put,
    storage,
)
from ipc.errors import ConfigError

MAX_PICKLE_BYTES = 64 * 2**20
MAX_OPCODES = 2**22
"""Some 30 describe a tensor."""
MAX_DEPTH = 64
_PLAIN = (type(None), bool, int, float, str, bytes)
_MARK = object()
_CONSTANTS: dict[str, object] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})
_PUSHED = frozenset(
    {
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("SHORT_BINSTRING", "BINSTRING", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    }
)
"""Opcodes whose argument is a value."""


def read_plain_pickle(content: bytes, make_tensor: Callable[[TensorRef], object] = lambda ref: ref) -> Any:
    """The value of a pickle, with what `make_tensor` gives in place of each tensor; what is shared stays shared.

    Raises:
        RefusedPickleError: it is not plain data; names what is not.
        ConfigError: it is damaged.
    """
    if len(content) > MAX_PICKLE_BYTES:
        raise RefusedPickleError(f"a pickle of {len(content)} bytes")
    try:
        value = _Machine().run(content)
    except (ValueError, LookupError, AttributeError) as error:
        raise ConfigError(f"a damaged pickle: {type(error).__name__}: {' '.join(str(error).split())[:100]}") from error
    return _Plain(make_tensor).of(value)


class _Machine:
    """Runs one pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._actions: dict[str, Callable[[Any], object]] = {
            "MARK": lambda _: self._stack.append(_MARK),
            "POP": lambda _: self._stack.pop(),
            "POP_MARK": lambda _: self._pop_to_mark(),
            "EMPTY_LIST": lambda _: self._stack.append([]),
            "EMPTY_DICT": lambda _: self._stack.append({}),
            "TUPLE": lambda _: self._stack.append(tuple(self._pop_to_mark())),
            "TUPLE1": lambda _: self._tuple(1),
            "TUPLE2": lambda _: self._tuple(2),
            "TUPLE3": lambda _: self._tuple(3),
            "APPEND": lambda _: self._append([self._pop()]),
            "APPENDS": lambda _: self._append(self._pop_to_mark()),
            "SETITEM": lambda _: self._set_items([self._pop(), self._pop()][::-1]),
            "SETITEMS": lambda _: self._set_items(self._pop_to_mark()),
            "MEMOIZE": lambda _: self._memoize(len(self._memo)),
            "BINPUT": self._memoize,
            "LONG_BINPUT": self._memoize,
            "BINGET": lambda place: self._stack.append(self._memo[place]),
            "LONG_BINGET": lambda place: self._stack.append(self._memo[place]),
            "GLOBAL": lambda names: self._stack.append(found(*names.split(" ", 1))),
            "STACK_GLOBAL": lambda _: self._two(self._find),
            "REDUCE": lambda _: self._two(called),
            "NEWOBJ": lambda _: self._two(new),
            "BUILD": lambda _: self._build(),
            "BINPERSID": lambda _: self._stack.append(storage(self._pop())),
        }

    def run(self, content: bytes) -> object:
        """The value; raises `RefusedPickleError`, and ValueError, LookupError or AttributeError for a damaged one."""
        for num, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(content))):
            name = opcode.name
            if num >= MAX_OPCODES:
                raise RefusedPickleError(f"more than {MAX_OPCODES} opcodes")
            if name in _PUSHED:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in self._actions:
                self._actions[name](argument)
            elif name not in _IGNORED:
                raise RefusedPickleError(f"the opcode {name}")
        return self._pop()

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a mark in place of a value")
        return value

    def _pop_to_mark(self) -> list[Any]:
        values = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        values.reverse()
        return values

    def _top(self) -> Any:
        top = self._pop()
        self._stack.append(top)
        return top

    def _tuple(self, size: int) -> None:
        self._stack.append(tuple([self._pop() for _ in range(size)][::-1]))

    def _append(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise ValueError("items for what is no list")
        target.extend(values)

    def _set_items(self, pairs: list[Any]) -> None:
        target = self._top()
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            put(target, key, value)

    def _memoize(self, place: int) -> None:
        self._memo[place] = self._top()

    def _two(self, act: Callable[[Any, Any], object]) -> None:
        second = self._pop()
        self._stack.append(act(self._pop(), second))

    def _find(self, module: object, name: object) -> object:
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is no text")
        return found(module, name)

    def _build(self) -> None:
        state = self._pop()
        give_state(self._top(), state)


class _Plain:
    """Turns what was unpickled into plain values; what is shared is done once, however often it is named."""

    def __init__(self, make_tensor: Callable[[TensorRef], object]) -> None:
        self._make_tensor = make_tensor
        self._done: dict[int, Any] = {}

    def of(self, value: object, depth: int = 0) -> Any:
        """The value as users get it; raises `RefusedPickleError` where there is anything else in it."""
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
        if type(value) is dict:
            return {key: self.of(item, depth) for key, item in value.items()}
        if isinstance(value, TensorRef):
            return self._make_tensor(value)
        if isinstance(value, Instance):
            return PlainObject(value.class_name, self.of(value.state, depth))
        raise RefusedPickleError(f"a value of the type {name_of(value)}")
