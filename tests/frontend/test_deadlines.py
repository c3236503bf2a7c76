"""Deadlines are absolute, and those of one kind are over in the order in which they began."""

import pytest

from frontend import deadlines
from frontend.deadlines import Deadlines, Waiting


class Connection:
    def __init__(self) -> None:
        self.over: list[Waiting] = []

    def on_deadline(self, waiting: Waiting) -> None:
        self.over.append(waiting)


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(deadlines, "time", clock)
    return clock


def make_deadlines() -> Deadlines:
    return Deadlines({Waiting.HEAD: 10.0, Waiting.BODY: 30.0, Waiting.REQUEST: 0.0, Waiting.CLOSE: 2.0})


def test_a_deadline_is_over_once_at_its_time(clock: Clock):
    waits, connection = make_deadlines(), Connection()
    waits.change(connection, None, Waiting.HEAD)
    clock.now += 9.9
    waits.expire(10)
    assert connection.over == []
    clock.now += 0.1
    waits.expire(10)
    waits.expire(10)
    assert connection.over == [Waiting.HEAD]


def test_only_those_that_began_long_ago_are_told(clock: Clock):
    waits, early, late = make_deadlines(), Connection(), Connection()
    waits.change(early, None, Waiting.HEAD)
    clock.now += 5
    waits.change(late, None, Waiting.HEAD)
    clock.now += 5
    waits.expire(10)
    assert (early.over, late.over) == ([Waiting.HEAD], [])


def test_what_came_in_time_is_not_waited_for(clock: Clock):
    waits, connection = make_deadlines(), Connection()
    waits.change(connection, None, Waiting.HEAD)
    waits.change(connection, Waiting.HEAD, Waiting.BODY)
    clock.now += 29
    waits.expire(10)
    waits.change(connection, Waiting.BODY, None)
    clock.now += 1000
    waits.expire(10)
    assert connection.over == []


def test_a_timeout_of_zero_is_no_limit(clock: Clock):
    waits, connection = make_deadlines(), Connection()
    waits.change(connection, None, Waiting.REQUEST)
    clock.now += 10**9
    waits.expire(10)
    assert connection.over == []


def test_a_connection_may_wait_for_something_else_when_it_is_told(clock: Clock):
    waits = make_deadlines()

    class Closing(Connection):
        def on_deadline(self, waiting: Waiting) -> None:
            super().on_deadline(waiting)
            if waiting is Waiting.HEAD:
                waits.change(self, None, Waiting.CLOSE)

    connection = Closing()
    waits.change(connection, None, Waiting.HEAD)
    for _ in range(2):
        clock.now += 10
        waits.expire(10)
    assert connection.over == [Waiting.HEAD, Waiting.CLOSE]


def test_not_all_of_many_are_told_at_once(clock: Clock):
    waits, connections = make_deadlines(), [Connection() for _ in range(5)]
    for connection in connections:
        waits.change(connection, None, Waiting.HEAD)
    clock.now += 10
    assert waits.expire(3)
    assert [len(connection.over) for connection in connections] == [1, 1, 1, 0, 0]
    assert not waits.expire(3)
    assert [len(connection.over) for connection in connections] == [1] * 5
