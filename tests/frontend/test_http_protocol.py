"""What one connection does without a server around it: how long it listens to a client that was answered."""

import asyncio
from collections.abc import Callable

import pytest
import uvicorn
from uvicorn.server import ServerState

from frontend.deadlines import Waiting
from frontend.host_header import HostPolicy
from frontend.http_protocol import MAX_DISCARDED_BYTES, MAX_LINGERS, ConnectionGuards, HttpProtocol
from ipc.config import AccessConfig, ConnectionConfig

REFUSED = b"POST / HTTP/1.1\r\nhost : x\r\n"


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True

    def write_eof(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@pytest.fixture
def refused() -> tuple[HttpProtocol, Transport]:
    """A connection whose client was told 400 and may have more to send."""

    async def connect() -> tuple[HttpProtocol, Transport]:
        config = uvicorn.Config(lambda *_: None, lifespan="off", log_config=None)
        guards = ConnectionGuards.of(ConnectionConfig(), HostPolicy(AccessConfig(), is_local=True))
        protocol, transport = HttpProtocol(config, ServerState(), {}, guards=guards), Transport()
        protocol.connection_made(transport)
        protocol.data_received(REFUSED)
        return protocol, transport

    return asyncio.run(connect())


def num_lingers(protocol: HttpProtocol, transport: Transport, between: Callable[[], None]) -> int:
    """How often its time is over until the connection ends."""
    for num in range(1, 100):
        between()
        protocol.on_deadline(Waiting.CLOSE)
        if transport.is_aborted:
            return num
    raise AssertionError("it never ends")


def test_a_client_that_was_refused_and_is_silent_is_cut_off(refused):
    protocol, transport = refused
    assert transport.written.startswith(b"HTTP/1.1 400 ")
    assert num_lingers(protocol, transport, lambda: None) == 1


def test_a_client_that_goes_on_sending_gets_the_time_to_read_its_refusal(refused):
    protocol, transport = refused
    assert num_lingers(protocol, transport, lambda: protocol.data_received(b"x" * 1000)) == MAX_LINGERS


def test_a_client_that_never_stops_sending_is_cut_off(refused):
    protocol, transport = refused
    protocol.data_received(b"x" * MAX_DISCARDED_BYTES)
    assert not transport.is_aborted
    protocol.data_received(b"x")
    assert transport.is_aborted
