"""HTTP as bytes on sockets, for tests of what no client library would send."""

import json
import re
import socket
from typing import Any

STATUS_LINE = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")
TIMEOUT_S = 20


def connect(url: str, *, receive_buffer_bytes: int | None = None) -> socket.socket:
    """A connection to a server; with a small receive buffer the kernel takes little for it."""
    host, _, port = url.removeprefix("http://").partition(":")
    connection = socket.socket()
    connection.settimeout(TIMEOUT_S)
    if receive_buffer_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    connection.connect((host, int(port)))
    return connection


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes; raises `TimeoutError` where it does not."""
    data = b""
    while received := connection.recv(65536):
        data += received
    return data


def read_all_there_is(connection: socket.socket) -> bytes:
    """Everything until the server closes or resets the connection, or says nothing more for half a second."""
    connection.settimeout(0.5)
    data = b""
    try:
        while received := connection.recv(65536):
            data += received
    except (ConnectionError, TimeoutError):
        return data
    return data


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """Everything up to these bytes, and what came with them; raises `TimeoutError` where they do not come."""
    data = b""
    while end not in data:
        received = connection.recv(65536)
        assert received, "closed before the end"
        data += received
    return data


def send_all(connection: socket.socket, data: bytes) -> None:
    """Send as much as the server takes: it may refuse before it has seen everything."""
    try:
        connection.sendall(data)
    except ConnectionError:
        return


def statuses(data: bytes) -> tuple[int, ...]:
    """Of all answers in it."""
    return tuple(int(status) for status in STATUS_LINE.findall(data))


def error_of(answer: bytes) -> dict[str, Any]:
    """The error of an answer in the envelope."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    error: dict[str, Any] = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code", "status"}
    assert error["status"] == statuses(head)[0]
    return error


def post(path: str, body: dict[str, Any]) -> bytes:
    """The bytes of a request."""
    data = json.dumps(body).encode()
    return b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(data), data)
