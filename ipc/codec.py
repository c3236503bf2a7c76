"""How messages are written down: each is one ZeroMQ frame with a header, a msgpack body, and raw buffers.

    header    kind u8, protocol version u8, core epoch u64 (the epoch is 0 in HELLO)
    lengths   number of parts u32, then the length of each in bytes, u32
    part 0    body: msgpack array, the record's fields in order, nested records as nested arrays
    part 1…   one raw buffer for each field typed `Ids32`, `Ids64` or `Floats`, in field order; empty ones at the end
              that have a default are left out

Numbers are little-endian; nothing lies between the parts or behind the last one.

One frame, because libzmq 4.3.5 cannot take more from a core that may be killed: where a DEALER with IMMEDIATE loses its
connection, it drops what it has not read yet, also between two frames of one message, and then aborts the process
("Assertion failed: !_more (src/fq.cpp:80)"; `tests/ipc/test_killed_cores.py`).

Invariant: `decode` returns a record whose every field has its declared type, or raises `ProtocolError`; whatever
bytes come in, it does nothing else. Extension types are refused, nothing is ever unpickled, all lengths are bounded.
`tests/ipc/test_codec.py` pins the bytes.
"""

import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import IntEnum
from itertools import accumulate, pairwise
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgpack

from ipc.body_limits import check_body
from ipc.errors import ProtocolError
from ipc.messages import (
    CLIENT_MESSAGES,
    CORE_MESSAGES,
    PROTOCOL_VERSION,
    ClientMessage,
    CoreMessage,
    MessageKind,
)

MAX_FRAME_BYTES = 64 * 2**20
"""Limit of a message that a client takes: its ZMQ_MAXMSGSIZE. libzmq never connects again after a larger one."""
MAX_CLIENT_FRAME_BYTES = 20 * 2**20
"""Limit of a message that the core takes; a prompt of four million tokens fits, whatever its parameters."""
MAX_PARTS = 15
MAX_STRING_BYTES = 2**20
MAX_ITEMS = 2**16

_HEADER = struct.Struct("<BBQ")
_NUM_PARTS = struct.Struct("<I")
_LENGTHS = [struct.Struct(f"<{num_parts}I") for num_parts in range(MAX_PARTS + 1)]
"""By the number of parts."""
_BIG_ENDIAN = sys.byteorder == "big"

_Decoder = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Header:
    """What every message begins with, in every protocol version."""

    kind: int
    version: int
    epoch: int


def encode(message: ClientMessage | CoreMessage, epoch: int) -> bytes:
    """Write a message as the one frame that it is sent in."""
    record = _RECORDS[type(message)]
    body, buffers = record.encode(message)
    return join_parts(record.kind, epoch, [msgpack.packb(body, use_bin_type=True), *buffers])


def join_parts(kind: int, epoch: int, parts: Sequence[bytes], version: int = PROTOCOL_VERSION) -> bytes:
    """A message of these parts, up to `MAX_PARTS`; only tests write parts that no record has."""
    lengths = _LENGTHS[len(parts)].pack(*map(len, parts))
    return b"".join((_HEADER.pack(kind, version, epoch), _NUM_PARTS.pack(len(parts)), lengths, *parts))


def decode_header(data: bytes | memoryview) -> Header:
    """Read the beginning, whose layout is the same in every protocol version.

    Raises:
        ProtocolError: there are fewer bytes.
    """
    if len(data) < _HEADER.size:
        raise ProtocolError("no header")
    return Header(*_HEADER.unpack_from(data))


def decode_client_message(data: bytes | memoryview) -> ClientMessage:
    """Read what a client sent; raises `ProtocolError` for anything else."""
    message: ClientMessage = _decode(data, CLIENT_MESSAGES)
    return message


def decode_core_message(data: bytes | memoryview) -> CoreMessage:
    """Read what the core sent; raises `ProtocolError` for anything else."""
    message: CoreMessage = _decode(data, CORE_MESSAGES)
    return message


def split_parts(data: bytes | memoryview) -> list[memoryview]:
    """The parts of a message, not copied.

    Raises:
        ProtocolError: there is no part, there are too many, or their lengths are not those of the message.
    """
    view, begin = memoryview(data), _HEADER.size + _NUM_PARTS.size
    if len(view) < begin:
        raise ProtocolError("no parts")
    [num_parts] = _NUM_PARTS.unpack_from(view, _HEADER.size)
    if not 1 <= num_parts <= MAX_PARTS:
        raise ProtocolError(f"{num_parts} parts")
    lengths = _LENGTHS[num_parts]
    if len(view) < begin + lengths.size:
        raise ProtocolError(f"no lengths of {num_parts} parts")
    ends = list(accumulate(lengths.unpack_from(view, begin), initial=begin + lengths.size))
    if ends[-1] != len(view):
        raise ProtocolError(f"parts up to byte {ends[-1]} in a message of {len(view)}")
    return [view[start:end] for start, end in pairwise(ends)]


def _decode(data: bytes | memoryview, known: dict[MessageKind, Any]) -> Any:
    header = decode_header(data)
    if header.version != PROTOCOL_VERSION:
        raise ProtocolError(f"protocol version {header.version}, this side speaks {PROTOCOL_VERSION}")
    if header.kind not in known:
        raise ProtocolError(f"unknown message kind {header.kind}")
    first, *buffers = split_parts(data)
    packed = bytes(first)
    record = _RECORDS[known[MessageKind(header.kind)]]
    check_body(packed)
    max_items = min(MAX_ITEMS, len(packed))  # lists are made as long as they say before their items are read
    try:
        body = msgpack.unpackb(
            packed,
            use_list=True,
            strict_map_key=True,
            max_str_len=MAX_STRING_BYTES,
            max_bin_len=MAX_STRING_BYTES,
            max_array_len=max_items,
            max_map_len=max_items,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as error:  # also UnicodeDecodeError, ExtraData, StackError
        raise ProtocolError(f"malformed body: {type(error).__name__}") from error
    return record.decode(body, buffers)


# --- typed records ---------------------------------------------------------------------------------------------


class _RecordCodec:
    """Writes and reads one dataclass; built once from its type hints."""

    def __init__(self, cls: type, kind: int = 0) -> None:
        self.cls = cls
        self.kind = kind
        hints = get_type_hints(cls, include_extras=True)
        self._body: list[tuple[str, _Decoder, bool]] = []
        self._buffers: list[tuple[str, str, bool]] = []
        for item in fields(cls):
            required = not _has_default(item)
            typecode = _buffer_typecode(hints[item.name])
            if typecode:
                self._buffers.append((item.name, typecode, required))
            else:
                self._body.append((item.name, _decoder_for(hints[item.name]), required))

    def encode(self, message: Any) -> tuple[list[Any], list[bytes]]:
        """Split a record into its body and its raw buffers."""
        body = [_plain(getattr(message, name)) for name, _, _ in self._body]
        buffers = [_buffer_bytes(getattr(message, name)) for name, _, _ in self._buffers]
        while buffers and not buffers[-1] and not self._buffers[len(buffers) - 1][2]:
            buffers.pop()
        return body, buffers

    def decode(self, body: Any, buffers: Sequence[memoryview]) -> Any:
        """Build the record; fields that an older writer does not know take their defaults."""
        if not isinstance(body, list):
            raise ProtocolError(f"{self.cls.__name__} is not an array")
        values: dict[str, Any] = {}
        for index, (name, decoder, required) in enumerate(self._body):
            if index < len(body):
                try:
                    values[name] = decoder(body[index])
                except ProtocolError as error:
                    raise ProtocolError(f"{self.cls.__name__}.{name}: {error.message}") from error
            elif required:
                raise ProtocolError(f"{self.cls.__name__}.{name} is missing")
        for index, (name, typecode, required) in enumerate(self._buffers):
            if index < len(buffers):
                values[name] = _read_buffer(name, typecode, buffers[index])
            elif required:
                raise ProtocolError(f"{self.cls.__name__}.{name} is missing")
        return self.cls(**values)


def _has_default(item: "Field[Any]") -> bool:
    return item.default is not MISSING or item.default_factory is not MISSING


def _buffer_typecode(hint: Any) -> str | None:
    if get_origin(hint) is Annotated:
        base, typecode = get_args(hint)
        if base is array:
            return str(typecode)
    return None


def _buffer_bytes(values: "array[Any]") -> bytes:
    if _BIG_ENDIAN:
        values = values[:]
        values.byteswap()
    return values.tobytes()


def _read_buffer(name: str, typecode: str, part: memoryview) -> "array[Any]":
    values: array[Any] = array(typecode)
    if len(part) % values.itemsize:
        raise ProtocolError(f"{name}: {len(part)} bytes are no array of {values.itemsize}-byte items")
    values.frombytes(part)
    if _BIG_ENDIAN:
        values.byteswap()
    return values


def _plain(value: Any) -> Any:
    """A field as msgpack writes it: records become arrays, enums their numbers."""
    if isinstance(value, IntEnum):
        return int(value)
    if isinstance(value, (str, int, float, dict)):
        return value
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return [_plain(getattr(value, item.name)) for item in fields(value)]


def _decoder_for(hint: Any) -> _Decoder:
    """A function that returns its argument as the type `hint`, or raises `ProtocolError`."""
    hint = getattr(hint, "__supertype__", hint)  # NewType
    origin = get_origin(hint)
    if hint in (int, bool, str):
        return _scalar_decoder(hint)
    if hint is float:
        return _decode_float
    if origin is tuple:
        return _tuple_decoder(_decoder_for(get_args(hint)[0]))
    if origin is dict:
        allowed = getattr(get_args(hint)[1], "__args__", (get_args(hint)[1],))
        return _dict_decoder(allowed)
    if isinstance(hint, type) and issubclass(hint, IntEnum):
        return _enum_decoder(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        nested = _RecordCodec(hint)
        return lambda value: nested.decode(value, ())
    raise TypeError(f"no codec for {hint}")


def _scalar_decoder(expected: type) -> _Decoder:
    def decode_scalar(value: Any) -> Any:
        if type(value) is not expected:  # a bool is not an int here
            raise ProtocolError(f"{type(value).__name__} instead of {expected.__name__}")
        return value

    return decode_scalar


def _decode_float(value: Any) -> float:
    if type(value) not in (int, float):
        raise ProtocolError(f"{type(value).__name__} instead of float")
    return float(value)


def _tuple_decoder(item_decoder: _Decoder) -> _Decoder:
    def decode_tuple(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ProtocolError(f"{type(value).__name__} instead of an array")
        return tuple([item_decoder(item) for item in value])

    return decode_tuple


def _dict_decoder(allowed: tuple[type, ...]) -> _Decoder:
    def decode_dict(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ProtocolError(f"{type(value).__name__} instead of a map")
        for key, item in value.items():
            if type(key) is not str or type(item) not in allowed:
                raise ProtocolError("a map holds a type that it may not")
        return value

    return decode_dict


EnumT = TypeVar("EnumT", bound=IntEnum)


def _enum_decoder(enum: type[EnumT]) -> _Decoder:
    def decode_enum(value: Any) -> EnumT:
        if type(value) is not int:
            raise ProtocolError(f"{type(value).__name__} instead of a number")
        try:
            return enum(value)
        except ValueError as error:
            raise ProtocolError(f"{value} is no {enum.__name__}") from error

    return decode_enum


_RECORDS: dict[type, _RecordCodec] = {
    cls: _RecordCodec(cls, kind) for table in (CLIENT_MESSAGES, CORE_MESSAGES) for kind, cls in table.items()
}
