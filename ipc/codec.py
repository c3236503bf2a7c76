"""How messages are written down: a header frame, a msgpack body, and raw buffers in frames of their own.

    frame 0   header: kind u8, protocol version u8, core epoch u64 (little-endian; the epoch is 0 in HELLO)
    frame 1   body: msgpack array, the record's fields in order, nested records as nested arrays
    frame 2…  one raw buffer for each field typed `Ids32`, `Ids64` or `Floats`, in field order; empty ones at the end
              that have a default are left out

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
"""Limit of every frame that a client takes: its ZMQ_MAXMSGSIZE."""
MAX_CLIENT_FRAME_BYTES = 16 * 2**20
"""Limit of every frame that the core takes; a prompt of four million tokens fits."""
MAX_FRAMES = 16
MAX_STRING_BYTES = 2**20
MAX_ITEMS = 2**16

_HEADER = struct.Struct("<BBQ")
_BIG_ENDIAN = sys.byteorder == "big"

Frames = list[bytes]
_Decoder = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Header:
    """The first frame."""

    kind: int
    version: int
    epoch: int


def encode(message: ClientMessage | CoreMessage, epoch: int) -> Frames:
    """Write a message as frames, ready for `send_multipart`."""
    record = _RECORDS[type(message)]
    body, buffers = record.encode(message)
    header = _HEADER.pack(record.kind, PROTOCOL_VERSION, epoch)
    return [header, msgpack.packb(body, use_bin_type=True), *buffers]


def decode_header(frames: Sequence[bytes]) -> Header:
    """Read the first frame, whose layout is the same in every protocol version.

    Raises:
        ProtocolError: there is none, or it has another length.
    """
    if not frames or len(frames[0]) != _HEADER.size:
        raise ProtocolError("no header")
    return Header(*_HEADER.unpack(frames[0]))


def decode_client_message(frames: Sequence[bytes]) -> ClientMessage:
    """Read what a client sent; raises `ProtocolError` for anything else."""
    message: ClientMessage = _decode(frames, CLIENT_MESSAGES)
    return message


def decode_core_message(frames: Sequence[bytes]) -> CoreMessage:
    """Read what the core sent; raises `ProtocolError` for anything else."""
    message: CoreMessage = _decode(frames, CORE_MESSAGES)
    return message


def _decode(frames: Sequence[bytes], known: dict[MessageKind, Any]) -> Any:
    header = decode_header(frames)
    if header.version != PROTOCOL_VERSION:
        raise ProtocolError(f"protocol version {header.version}, this side speaks {PROTOCOL_VERSION}")
    if header.kind not in known:
        raise ProtocolError(f"unknown message kind {header.kind}")
    if not 2 <= len(frames) <= MAX_FRAMES:
        raise ProtocolError(f"{len(frames)} frames")
    record = _RECORDS[known[MessageKind(header.kind)]]
    check_body(frames[1])
    max_items = min(MAX_ITEMS, len(frames[1]))  # lists are made as long as they say before their items are read
    try:
        body = msgpack.unpackb(
            frames[1],
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
    return record.decode(body, frames[2:])


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

    def encode(self, message: Any) -> tuple[list[Any], Frames]:
        """Split a record into its body and its raw buffers."""
        body = [_plain(getattr(message, name)) for name, _, _ in self._body]
        buffers = [_buffer_bytes(getattr(message, name)) for name, _, _ in self._buffers]
        while buffers and not buffers[-1] and not self._buffers[len(buffers) - 1][2]:
            buffers.pop()
        return body, buffers

    def decode(self, body: Any, buffers: Sequence[bytes]) -> Any:
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


def _read_buffer(name: str, typecode: str, frame: bytes) -> "array[Any]":
    values: array[Any] = array(typecode)
    if len(frame) % values.itemsize:
        raise ProtocolError(f"{name}: {len(frame)} bytes are no array of {values.itemsize}-byte items")
    values.frombytes(frame)
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
