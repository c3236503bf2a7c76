"""How many connections a frontend holds, and what it tells those above."""

import resource
import socket

import pytest

from frontend.connection_limit import MAX_DEFAULT_CONNECTIONS, RESERVED_DESCRIPTORS, TurnedAway, max_connections
from ipc.config import ConnectionConfig
from tests.raw_http import error_of, read_all


@pytest.mark.parametrize(
    ("num_descriptors", "configured", "expected"),
    [
        (1024, None, 1024 - RESERVED_DESCRIPTORS),
        (1024, 100, 100),
        (1024, 5000, 1024 - RESERVED_DESCRIPTORS),
        (10**6, None, MAX_DEFAULT_CONNECTIONS),
        (10**6, 100_000, 100_000),
        (resource.RLIM_INFINITY, None, MAX_DEFAULT_CONNECTIONS),
        (resource.RLIM_INFINITY, 100_000, 100_000),
        (10, None, 1),
    ],
)
def test_descriptors_are_left_for_other_things(monkeypatch, num_descriptors, configured, expected):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (num_descriptors, num_descriptors))
    assert max_connections(ConnectionConfig(max_connections=configured)) == expected


def test_more_than_the_system_allows_is_warned_of(monkeypatch, caplog):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    max_connections(ConnectionConfig())
    assert not caplog.records
    max_connections(ConnectionConfig(max_connections=5000))
    assert "allows 960, not 5000" in caplog.text


def test_who_is_turned_away_can_read_why():
    ours, theirs = socket.socketpair()
    turned_away = TurnedAway()
    with theirs:
        turned_away.add(ours)
        theirs.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = read_all(theirs)
        error = error_of(answer)
        assert (error["status"], error["code"]) == (503, "too_many_connections")
        assert b"retry-after: 1\r\n" in answer
        assert b"connection: close\r\n" in answer
        turned_away.close()


def test_only_some_of_them_are_kept_open():
    pairs = [socket.socketpair() for _ in range(40)]
    turned_away = TurnedAway()
    for ours, _ in pairs:
        turned_away.add(ours)
    assert sum(ours.fileno() >= 0 for ours, _ in pairs) <= 16
    turned_away.close()
    assert all(ours.fileno() < 0 for ours, _ in pairs)
    for _, theirs in pairs:
        theirs.close()
