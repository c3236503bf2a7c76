"""The guard of a bound ROUTER, its events taken in by the test."""

import socket

import pytest
import zmq

from engine_core.connection_guard import DESCRIPTORS_WANTED, MAX_CONNECTIONS_OF_PROCESS, ConnectionGuard
from tests.waiting import wait_until


@pytest.fixture
def guarded(tmp_path, request):
    """A guard, and a function that connects; a parameter is the number of descriptors."""
    path, connections = str(tmp_path / "socket"), []
    with zmq.Context() as context:
        router = context.socket(zmq.ROUTER)
        guard = ConnectionGuard(context, router, getattr(request, "param", DESCRIPTORS_WANTED))
        router.bind(f"ipc://{path}")

        def connect():
            connections.append(socket.socket(socket.AF_UNIX))
            connections[-1].connect(path)
            return connections[-1]

        yield guard, connect
        for connection in connections:
            connection.close()
        guard.close()
        router.close(linger=0)


def taken(guard, condition):
    def is_true():
        guard.take_events()
        return condition()

    wait_until(is_true)


def test_connections_are_counted_until_they_end(guarded):
    guard, connect = guarded
    first, _ = connect(), connect()
    taken(guard, lambda: guard.num_open == 2)
    first.close()
    taken(guard, lambda: (guard.num_open, guard.num_ended) == (1, 1))


def test_a_process_with_too_many_connections_keeps_those_that_it_has(guarded):
    guard, connect = guarded
    connections = [connect() for _ in range(MAX_CONNECTIONS_OF_PROCESS + 20)]
    taken(guard, lambda: guard.num_open == MAX_CONNECTIONS_OF_PROCESS)
    assert guard.num_cut == 20
    connections[-1].settimeout(5)
    while connections[-1].recv(100):  # the greeting, then the end
        pass
    connections[0].setblocking(False)
    assert connections[0].recv(1) == b"\xff"


def test_a_place_that_became_free_can_be_taken(guarded):
    guard, connect = guarded
    connections = [connect() for _ in range(MAX_CONNECTIONS_OF_PROCESS)]
    taken(guard, lambda: guard.num_open == MAX_CONNECTIONS_OF_PROCESS)
    connections[0].close()
    taken(guard, lambda: guard.num_ended == 1)
    connect()
    taken(guard, lambda: guard.num_open == MAX_CONNECTIONS_OF_PROCESS)
    assert guard.num_cut == 0


def test_what_was_cut_is_told_once(guarded, caplog):
    guard, connect = guarded
    for _ in range(MAX_CONNECTIONS_OF_PROCESS + 3):
        connect()
    taken(guard, lambda: guard.num_cut == 3)
    guard.report()
    guard.report()
    assert caplog.messages == ["cut 3 connections: more than are allowed at once"]


@pytest.mark.parametrize("guarded", [128], indirect=True)
def test_where_descriptors_are_few_all_connections_together_have_a_limit(guarded, caplog):
    guard, connect = guarded
    for _ in range(30):
        connect()
    taken(guard, lambda: (guard.num_open, guard.num_cut) == (16, 14))


def test_few_descriptors_are_told_at_the_start(caplog):
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        guard = ConnectionGuard(context, router, 256)
        guard.close()
    assert "only 256 file descriptors" in caplog.text
