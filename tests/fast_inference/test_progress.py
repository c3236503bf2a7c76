"""What is said of a wait where there is no terminal."""

import threading

import pytest

from fast_inference import progress
from fast_inference.progress import StartProgress


def test_a_stage_is_said_once(capsys):
    with StartProgress() as told:
        told("one")
        told("one")
        told("two", 0.0)
        told("two", 0.5)  # too soon
        told("three")
    assert capsys.readouterr().err.splitlines() == ["one", "two 0%", "three"]


def test_a_long_stage_is_said_again_while_nobody_calls(monkeypatch):
    monkeypatch.setattr(progress, "_REMINDER_INTERVAL_S", 0.01)
    lines: list[str] = []
    was_reminded = threading.Event()

    def write(text: str) -> None:
        lines.append(text)
        if len(lines) == 3:
            was_reminded.set()

    monkeypatch.setattr(progress, "_write_line", write)
    with StartProgress() as told:
        told("converting")
        was_reminded.wait()
    assert lines[:3] == ["converting", "converting, for 0 s", "converting, for 0 s"]


def test_nobody_is_reminded_after_the_end(monkeypatch):
    monkeypatch.setattr(progress, "_REMINDER_INTERVAL_S", 0.001)
    with StartProgress() as told:
        told("one")
    assert [thread.name for thread in threading.enumerate() if thread.name == "progress"] == []


def test_an_error_ends_the_reminder_too():
    with pytest.raises(ValueError, match="x"), StartProgress():
        raise ValueError("x")
    assert [thread.name for thread in threading.enumerate() if thread.name == "progress"] == []
