"""What a check says: one line, how bad it is, and what to do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

Findings = Iterator["Finding"]
Tell = Callable[[str], None]
"""Told what a check is at, where it may take more than a second."""


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """A server would start, but be slower or poorer than it could be."""
    FAIL = "fail"
    """A server would not start."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: Level
    name: str
    """What was looked at, in a word or two."""
    text: str
    """What was found."""
    fix: str = ""
    """What to do about it; empty where nothing is to be done."""


def ok(name: str, text: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, name, text)


def warn(name: str, text: str, fix: str) -> Finding:
    """It could be better."""
    return Finding(Level.WARN, name, text, fix)


def fail(name: str, text: str, fix: str) -> Finding:
    """Nothing would start."""
    return Finding(Level.FAIL, name, text, fix)
