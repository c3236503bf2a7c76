"""Clients that take nothing are reset; those that take a little now and then are not."""

import asyncio

import pytest

from frontend import client_transport
from frontend.client_transport import ClientTransport, SendWatch

TIMEOUT_S = 30.0


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Transport(asyncio.Transport):
    """Has one byte that the client does not take."""

    def __init__(self) -> None:
        self.num_waiting = 1
        self.calls: list[str] = []

    def get_write_buffer_size(self) -> int:
        return self.num_waiting

    def write(self, data: bytes) -> None:
        self.calls.append("write")

    def write_eof(self) -> None:
        self.calls.append("write_eof")

    def resume_reading(self) -> None:
        self.calls.append("resume_reading")

    def close(self) -> None:
        self.calls.append("close")

    def is_closing(self) -> bool:
        return False


class Connection:
    def __init__(self, *, is_receiving: bool = False) -> None:
        self.is_receiving = is_receiving
        self.is_lingering = False

    def on_lingering(self) -> None:
        self.is_lingering = True


class WatchedTransport(ClientTransport):
    """Says itself what the client has taken, and counts who asks."""

    num_taken = 0
    num_looks = 0
    is_reset = False

    @property
    def num_acknowledged_bytes(self) -> int:
        self.num_looks += 1
        return self.num_taken

    def reset(self) -> None:
        self.is_reset = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(client_transport, "time", clock)
    return clock


def watched(sends: SendWatch) -> tuple[WatchedTransport, Transport]:
    inner = Transport()
    transport = WatchedTransport(inner, Connection(), sends)
    transport.write(b"x")
    return transport, inner


def test_a_client_that_takes_nothing_is_reset(clock: Clock):
    sends = SendWatch(TIMEOUT_S)
    transport, _ = watched(sends)
    clock.now += TIMEOUT_S - 1
    sends.expire(10)
    assert not transport.is_reset
    clock.now += 1
    sends.expire(10)
    assert transport.is_reset


def test_each_byte_that_it_takes_gives_it_more_time(clock: Clock):
    sends = SendWatch(TIMEOUT_S)
    transport, _ = watched(sends)
    for _ in range(5):
        clock.now += TIMEOUT_S - 1
        transport.num_taken += 1
        sends.expire(10)
    assert not transport.is_reset
    clock.now += TIMEOUT_S
    sends.expire(10)
    assert transport.is_reset


def test_a_client_that_has_taken_everything_may_take_its_time(clock: Clock):
    sends = SendWatch(TIMEOUT_S)
    transport, inner = watched(sends)
    inner.num_waiting = 0
    sends.expire(10)
    clock.now += 10 * TIMEOUT_S
    sends.expire(10)
    assert not transport.is_reset


def test_without_a_timeout_nobody_is_reset(clock: Clock):
    sends = SendWatch(0)
    transport, _ = watched(sends)
    clock.now += 10**9
    sends.expire(10)
    assert not transport.is_reset


def test_not_all_of_many_are_reset_at_once(clock: Clock):
    sends = SendWatch(TIMEOUT_S)
    transports = [watched(sends)[0] for _ in range(5)]
    clock.now += TIMEOUT_S
    assert sends.expire(3)
    assert sum(transport.is_reset for transport in transports) == 3
    assert not sends.expire(3)


def test_clients_are_looked_at_a_few_times_within_the_timeout(clock: Clock):
    sends = SendWatch(TIMEOUT_S)
    transport, _ = watched(sends)
    for _ in range(1000):
        clock.now += TIMEOUT_S / 1001
        assert not sends.expire(10)
    assert 20 < transport.num_looks < 40


def test_a_client_that_has_sent_everything_is_only_closed():
    inner = Transport()
    ClientTransport(inner, Connection(), SendWatch(0)).close()
    assert inner.calls == ["close"]


def test_a_client_that_still_sends_is_read_on_and_nothing_more_is_written():
    inner, connection = Transport(), Connection(is_receiving=True)
    transport = ClientTransport(inner, connection, SendWatch(0))
    transport.close()
    transport.close()
    transport.write(b"more")
    assert inner.calls == ["resume_reading", "write_eof"]
    assert connection.is_lingering
    assert transport.is_closing()
