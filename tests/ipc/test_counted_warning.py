import logging
import time

import pytest

from ipc.counted_warning import CountedWarning
from ipc.errors import ProtocolError


@pytest.fixture
def now(monkeypatch):
    clock = {"now": 100.0}
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
    return clock


def test_ten_thousand_in_a_second_are_one_line_and_a_count(caplog, now):
    dropped = CountedWarning(logging.getLogger("test"), "dropped a message")
    for number in range(10_000):
        dropped.add(f"junk {number}")
    dropped.tell_rest()
    assert caplog.messages == ["dropped a message: junk 0"]
    now["now"] += 1
    dropped.tell_rest()
    assert caplog.messages[1:] == ["dropped a message: 9999 more times, the last: junk 9999"]
    assert dropped.num == 10_000


def test_one_in_a_while_is_logged_each_time(caplog, now):
    dropped = CountedWarning(logging.getLogger("test"), "dropped a message")
    for _ in range(3):
        dropped.add("junk")
        now["now"] += 1
    assert len(caplog.messages) == 3


def test_a_bug_of_ours_is_logged_with_its_trace(caplog):
    try:
        raise ProtocolError("here")
    except ProtocolError:
        CountedWarning(logging.getLogger("test"), "dropped a message").add("it could not be handled", has_trace=True)
    assert "Traceback" in caplog.text
