"""Frontends share a listening socket: one of them takes each connection, and who has fewer goes first."""

import asyncio
import os
import resource
import socket

import pytest

from frontend.acceptor import Acceptor
from frontend.connection_counts import ConnectionCounts


class Counting(asyncio.Protocol):
    """A protocol that knows its acceptor's connections."""

    def __init__(self, connections: list["Counting"]) -> None:
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connections.append(self)
        self.transport = transport


@pytest.fixture
def listening():
    """The shared socket, once for each frontend, as children inherit it."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as first, first.dup() as second:
        yield first, second


def make_frontend(listening, run_dir, index, max_connections=1000, num_frontends=2):
    connections: list[Counting] = []
    counts = ConnectionCounts(run_dir / "connections", index, num_frontends)
    acceptor = Acceptor(listening[index], lambda: Counting(connections), counts, connections, max_connections)
    return acceptor, connections


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_two_frontends_share_connections_evenly(listening, tmp_path):
    async def scenario() -> None:
        (first, ours), (second, theirs) = (make_frontend(listening, tmp_path, index) for index in (0, 1))
        clients = []
        for _ in range(20):
            clients.append(socket.create_connection(listening[0].getsockname()))
            await asyncio.sleep(0.01)
        assert (len(ours), len(theirs)) == (10, 10)
        for acceptor in (first, second):
            acceptor.close()
            await acceptor.wait_closed()
        for connection in ours + theirs:
            connection.transport.close()
        for client in clients:
            client.close()

    run(scenario)


def test_a_frontend_that_accepts_nothing_strands_nothing(listening, tmp_path):
    async def scenario() -> None:
        ConnectionCounts(tmp_path / "connections", 1, num_frontends=2)  # there, with no connections, but stopped
        acceptor, ours = make_frontend(listening, tmp_path, 0)
        clients = [socket.create_connection(listening[0].getsockname()) for _ in range(20)]
        await asyncio.sleep(0.5)
        assert len(ours) == 20
        acceptor.close()
        for connection in ours:
            connection.transport.close()
        for client in clients:
            client.close()

    run(scenario)


def test_as_many_connections_at_once_as_there_may_be_are_all_taken(listening, tmp_path):
    async def scenario() -> None:
        acceptor, ours = make_frontend(listening, tmp_path, 0, max_connections=20, num_frontends=1)
        clients = [socket.create_connection(listening[0].getsockname()) for _ in range(20)]
        await asyncio.sleep(0.1)
        assert len(ours) == 20
        acceptor.close()
        await acceptor.wait_closed()
        for connection in ours:
            connection.transport.close()
        for client in clients:
            client.close()

    run(scenario)


def test_a_closed_acceptor_leaves_connections_to_the_others(listening, tmp_path):
    async def scenario() -> None:
        acceptor, ours = make_frontend(listening, tmp_path, 0)
        acceptor.close()
        with socket.create_connection(listening[0].getsockname()):
            await asyncio.sleep(0.05)
            assert ours == []
            listening[1].accept()[0].close()

    run(scenario)


def test_a_connection_above_the_limit_is_told_so_and_those_below_stay(listening, tmp_path):
    async def scenario() -> None:
        acceptor, ours = make_frontend(listening, tmp_path, 0, max_connections=3)
        clients = [socket.create_connection(listening[0].getsockname(), timeout=5) for _ in range(5)]
        for client in clients[3:]:
            assert (await asyncio.to_thread(client.recv, 12)) == b"HTTP/1.1 503"
        assert len(ours) == 3
        acceptor.close()
        for connection in ours:
            connection.transport.close()
        for client in clients:
            client.close()

    run(scenario)


def test_having_no_descriptors_left_is_waited_out(listening, tmp_path, caplog):
    async def scenario() -> None:
        acceptor, ours = make_frontend(listening, tmp_path, 0)
        client = socket.create_connection(listening[0].getsockname())
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            await asyncio.sleep(0.1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len(caplog.records) == 1, "it tries again and again"
        assert not ours
        while not ours:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        acceptor.close()
        ours[0].transport.close()
        client.close()

    run(scenario)


def test_a_frontend_with_a_port_of_its_own_waits_for_no_other(tmp_path):
    first, second = (ConnectionCounts(tmp_path / "connections", index, 2, shares_port=False) for index in (0, 1))
    first.publish(7)
    second.publish(0)
    assert not first.is_above_another(7)


def test_a_replaced_frontend_starts_from_zero(tmp_path):
    counts = ConnectionCounts(tmp_path / "connections", 0, num_frontends=2)
    ConnectionCounts(tmp_path / "connections", 1, num_frontends=2).publish(5)
    assert not counts.is_above_another(5)
    ConnectionCounts(tmp_path / "connections", 1, num_frontends=2)
    assert counts.is_above_another(1)
