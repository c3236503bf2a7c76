"""Messages that nobody should send: for tests of both ends of the socket, and for whoever torments a running core.

`junk_messages` gives lists of frames that a core must drop and count, as one message each: one frame that cannot be
read, or several, which no message has (a client takes each frame for a message of its own). `send_junk` sends any
number of them to a core; `send_oversized` and `send_raw_bytes` do what libzmq does not let a client do, over plain
sockets.
"""

import random
import socket
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack
import zmq

from ipc import codec
from ipc.endpoints import connect_to_core
from ipc.messages import PROTOCOL_VERSION, Add, Hello, MessageKind, RequestId
from ipc.sampling_params import SamplingParams

Frames = list[bytes]
_ADD = Add(RequestId(1), array("i", [1, 2, 3]), SamplingParams(max_tokens=5, stop_token_ids=(1, 2)))


def _of(*parts: bytes, kind: int = MessageKind.ADD, version: int = PROTOCOL_VERSION) -> Frames:
    """A message of these parts."""
    return [codec.join_parts(kind, 1, parts, version)]


def _add_parts() -> list[bytes]:
    return [bytes(part) for part in codec.split_parts(codec.encode(_ADD, 1))]


def _random_frames(generator: random.Random) -> Frames:
    return [generator.randbytes(generator.randrange(1, 9)) for _ in range(generator.randrange(1, 5))]


def _random_body(generator: random.Random) -> Frames:
    return _of(b"\xc1" + generator.randbytes(generator.randrange(200)), b"")


def _truncated_body(generator: random.Random) -> Frames:
    body, prompt = _add_parts()
    return _of(body[: generator.randrange(len(body))], prompt)


def _truncated(generator: random.Random) -> Frames:
    data = codec.encode(_ADD, 1)
    return [data[: generator.randrange(len(data))]]


def _other_lengths(generator: random.Random) -> Frames:
    """One of the numbers of parts and bytes is another."""
    data, position = codec.encode(_ADD, 1), generator.choice([10, 14, 18])
    number = int.from_bytes(data[position : position + 4], "little")
    other = (number + generator.randrange(1, 2**32)) % 2**32
    return [data[:position] + other.to_bytes(4, "little") + data[position + 4 :]]


def _odd_buffer(generator: random.Random) -> Frames:
    body, prompt = _add_parts()
    return _of(body, prompt + b"\0" * generator.randrange(1, 4))


def _deep(generator: random.Random) -> Frames:
    return _of(generator.choice([b"\x91", b"\x81\xa1x"]) * generator.randrange(20, 5000) + b"\x01")


def _lists_in_lists(generator: random.Random) -> Frames:
    return _of(generator.choice([b"\xdc\xff\xff", b"\xdd\x00\x00\xff\xff"]) * generator.randrange(10, 1000))


def _extension(generator: random.Random) -> Frames:
    return _of(msgpack.packb([msgpack.ExtType(generator.randrange(128), generator.randbytes(16))]))


def _declared_length(generator: random.Random) -> Frames:
    code = generator.choice([b"\xdb", b"\xc6", b"\xdd", b"\xdf", b"\xc9"])
    return _of(code + generator.randrange(2**31, 2**32).to_bytes(4, "big") + b"x")


def _wrong_version(generator: random.Random) -> Frames:
    return _of(*_add_parts(), version=generator.randrange(PROTOCOL_VERSION + 1, 256))


def _stale(generator: random.Random) -> Frames:
    """Whole, but of another life of the core."""
    return [codec.encode(_ADD, generator.randrange(2**64))]


def _unknown_kind(generator: random.Random) -> Frames:
    return _of(b"\x90", kind=generator.randrange(max(MessageKind) + 1, 256))


def _many_frames(generator: random.Random) -> Frames:
    return [codec.encode(_ADD, 1)] + [b"x"] * generator.randrange(1, 200)


def _cut_into_frames(generator: random.Random) -> Frames:
    """Whole only for who joins them, as nobody does."""
    data = codec.encode(_ADD, 1)
    position = generator.randrange(1, len(data))
    return [data[:position], data[position:]]


def _empty(generator: random.Random) -> Frames:
    return [b""] * generator.randrange(1, 4)


def _long_string(generator: random.Random) -> Frames:
    return _of(msgpack.packb(["x" * (codec.MAX_STRING_BYTES + generator.randrange(1, 100))]))


def _map_keys(generator: random.Random) -> Frames:
    return _of(msgpack.packb([{generator.randrange(100): "a key that is no string"}]))


_KINDS: list[Callable[[random.Random], Frames]] = [
    *(_random_frames, _random_body, _truncated_body, _truncated, _other_lengths, _odd_buffer, _deep, _lists_in_lists),
    *(_extension, _declared_length, _wrong_version, _unknown_kind, _many_frames, _cut_into_frames, _empty, _map_keys),
    _stale,
]


def junk_messages(seed: int, count: int) -> Iterator[Frames]:
    """So many messages that no core takes; equal ones for equal seeds.

    Each kind comes in turn; one in a thousand has a string of a megabyte.
    """
    generator = random.Random(seed)
    for number in range(count):
        kind = _long_string if number % 1000 == 999 else _KINDS[number % len(_KINDS)]
        yield kind(generator)


@contextmanager
def junk_sent(core_socket: Path, seed: int, count: int) -> Iterator[None]:
    """Send so many messages that no core takes, and disconnect in the end.

    What a client sent shortly before that may be lost inside of ZeroMQ, before the core could count it.
    """
    with zmq.Context() as context:
        dealer = connect_to_core(context, core_socket)
        try:
            for frames in junk_messages(seed, count):
                dealer.send_multipart(frames)
            yield
        finally:
            dealer.close(linger=1000)


def send_junk(
    core_socket: Path,
    seed: int,
    count: int,
    wait_counted: Callable[[int], object],
    *,
    num_oversized: int = 0,
    num_raw: int = 0,
) -> int:
    """Send junk to a core; returns by how much its count of bad messages must grow at least.

    `wait_counted` waits until so many are counted.
    """
    with junk_sent(core_socket, seed, count):
        wait_counted(count)
    for _ in range(num_oversized):
        send_oversized(core_socket)
    generator = random.Random(seed)
    for _ in range(num_raw):
        send_raw_bytes(core_socket, generator.randbytes(100))
    return count + num_oversized + num_raw


def send_oversized(core_socket: Path, num_bytes: int = 100 * 2**20) -> None:
    """Speak ZMTP up to a frame of this size, and send as much of it as the core takes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(core_socket))
        connection.sendall(b"\xff" + 8 * b"\0" + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + 32 * b"\0")
        ready = b"\x05READY\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
        connection.sendall(bytes([4, len(ready)]) + ready)
        _until_refused(connection, b"\x02" + num_bytes.to_bytes(8, "big"), num_bytes)


def send_raw_bytes(core_socket: Path, content: bytes) -> None:
    """What a port scanner does."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(core_socket))
        _until_refused(connection, content, 0)


def _until_refused(connection: socket.socket, start: bytes, num_more: int) -> None:
    """Send, and read until the other side has closed or nothing more is to be sent."""
    try:
        connection.sendall(start)
        while num_more > 0:
            num_more -= connection.send(bytes(min(num_more, 2**16)))
    except (BrokenPipeError, ConnectionResetError):
        return


def hello_of_version(version: int) -> bytes:
    """A HELLO of another protocol version."""
    parts = codec.split_parts(codec.encode(Hello("old", 1, 0, 0, 0), 0))  # type: ignore[arg-type]
    return codec.join_parts(MessageKind.HELLO, 0, [bytes(part) for part in parts], version)
