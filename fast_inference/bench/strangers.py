"""Peers that a core on a tcp endpoint must not hear: without its keys, or that speak something else.

For `scripts/check_namespaces.py`. A peer with keys speaks through libzmq, as a client does; garbage comes over tcp.
"""

import socket
import time
from array import array
from contextlib import suppress
from pathlib import Path

import zmq

from ipc import codec
from ipc.curve import CurveDir
from ipc.endpoints import RemoteCore, connect_to_core
from ipc.messages import Add, ClientRole, Hello, RequestId
from ipc.sampling_params import SamplingParams

KINDS = ("another key", "no keys", "another server key")
"""What is wrong with a peer that speaks as a client does."""

_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_READY = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
GARBAGE = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10,
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "zeros": bytes(100_000),
    "ZMTP without CURVE": _GREETING + _READY + b"\x00\x10" + bytes(16),
    "silence": b"",
}
"""What comes over plain tcp, by name."""


def num_messages_to(kind: str, endpoint: str, core_key: bytes, folder: Path) -> int:
    """How many messages a peer of this kind gets that says HELLO and sends a request; its keys are made in `folder`."""
    own = CurveDir(folder)
    own.make("stranger")
    server_key = core_key if kind == "another key" else own.server_public_key()
    hello = codec.encode(Hello("stranger", ClientRole.FRONTEND, 0, 0, 0), 0)
    add = codec.encode(Add(RequestId(1), array("i", [1, 2, 3]), SamplingParams(max_tokens=1000)), 0)
    with zmq.Context() as context:
        if kind == "no keys":
            dealer = context.socket(zmq.DEALER)
            dealer.connect(endpoint)
        else:
            core = RemoteCore(endpoint, own.path, "stranger", server_key.decode())
            dealer = connect_to_core(context, core)
        num_messages, until = 0, time.monotonic() + 2.0
        while time.monotonic() < until:
            with suppress(zmq.Again):
                dealer.send(hello, zmq.DONTWAIT)
                dealer.send(add, zmq.DONTWAIT)
            while dealer.poll(100):
                dealer.recv()
                num_messages += 1
        dealer.close(linger=0)
    return num_messages


def answer_to(address: tuple[str, int], data: bytes) -> tuple[bytes, bool]:
    """What comes back over plain tcp, and whether the connection is still open after 5 s."""
    answer, until = b"", time.monotonic() + 5.0
    with socket.create_connection(address, timeout=2.0) as connection:
        with suppress(ConnectionError):
            connection.sendall(data)
        while (left_s := until - time.monotonic()) > 0:
            connection.settimeout(left_s)
            try:
                received = connection.recv(65536)
            except TimeoutError:
                break
            except ConnectionError:
                return answer, False
            if not received:
                return answer, False
            answer += received
    return answer, True
