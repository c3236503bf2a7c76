"""Who was running when a core died: a file that its successor reads, and every other core of the server.

One file for each core in its run dir, mapped into memory, so that what was written is there whatever the end of the
process was. Written by `quarantine.py` when the set of running requests changes; each step only writes its number.
Invariant: a reader finds the last record that was written completely, since records alternate between two halves and
the header names the valid one afterwards; and what a core knew when it started is in its journal from the first moment.

    header   magic 8 bytes, step u64, half u32, length u32
    halves   msgpack of a `CrashRecord` as an array
"""

import mmap
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgpack

from ipc.process import is_running, start_ticks

_MAGIC = b"fi-jrnl2"
_STEP = struct.Struct("<Q")
_POINTER = struct.Struct("<II")
_STEP_OFFSET = len(_MAGIC)
_POINTER_OFFSET = _STEP_OFFSET + _STEP.size
_HEADER_BYTES = 64
_HALF_BYTES = 512 * 1024
"""Enough for some ten thousand requests; a record that is larger names nobody."""


@dataclass(frozen=True, slots=True)
class RunningRequest:
    """A request that a core was working on."""

    digest: bytes
    """Of its content: `request_intake.content_digest`."""
    num_output_tokens: int
    """When the record was written."""


class CrashId(NamedTuple):
    """The process that died."""

    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Suspect:
    """A request that was running when a core died."""

    digest: bytes
    crashes: frozenset[CrashId]
    crashed_at_s: float
    """The last time, wall clock in seconds."""
    num_output_tokens: int
    """Tokens that it had at most with the one that was being computed; with that one it is past that place."""

    @property
    def num_crashes(self) -> int:
        """In which it was running."""
        return len(self.crashes)


@dataclass(frozen=True, slots=True)
class Acquittal:
    """A request that got past the place where these cores died."""

    digest: bytes
    crashes: frozenset[CrashId]
    at_s: float
    """Wall clock in seconds."""


@dataclass(frozen=True, slots=True)
class CrashRecord:
    """What a core says about itself, for the case that it dies."""

    pid: int
    pid_start_ticks: int
    step: int
    """The step in which the record was written."""
    running: tuple[RunningRequest, ...]
    suspects: tuple[Suspect, ...]
    acquittals: tuple[Acquittal, ...]

    @property
    def crash_id(self) -> CrashId:
        """What its death is called."""
        return CrashId(self.pid, self.pid_start_ticks)

    @property
    def is_alive(self) -> bool:
        """True while its core lives; one that has ended does not, whether its launcher has seen that or not."""
        return is_running(self.pid, self.pid_start_ticks)


class CrashJournal:
    """The journal of this core."""

    def __init__(self, path: Path, suspects: Iterable[Suspect] = (), acquittals: Iterable[Acquittal] = ()) -> None:
        """Begin a new journal in place of what is there, with what is known.

        Raises:
            OSError: there is no room for it.
        """
        self._pid, self._pid_start_ticks = os.getpid(), start_ticks(os.getpid())
        self._half = 0
        size = _HEADER_BYTES + 2 * _HALF_BYTES
        temporary = path.with_suffix(".tmp")
        with open(temporary, "w+b", opener=_open_private) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a write to a mapped file on a full disk ends the process
            self._map = mmap.mmap(file.fileno(), size)
        self.write(0, (), suspects, acquittals)
        self._map[: len(_MAGIC)] = _MAGIC
        os.replace(temporary, path)

    def close(self) -> None:
        """Let go of the file; what is in it stays."""
        self._map.close()

    def set_step(self, step: int) -> None:
        """A step begins."""
        _STEP.pack_into(self._map, _STEP_OFFSET, step)

    def write(
        self,
        step: int,
        running: Iterable[RunningRequest],
        suspects: Iterable[Suspect],
        acquittals: Iterable[Acquittal] = (),
    ) -> None:
        """Replace the record."""
        content = [
            self._pid,
            self._pid_start_ticks,
            step,
            [[request.digest, request.num_output_tokens] for request in running],
            [[item.digest, [*item.crashes], item.crashed_at_s, item.num_output_tokens] for item in suspects],
            [[item.digest, [*item.crashes], item.at_s] for item in acquittals],
        ]
        packed = msgpack.packb(content)
        if len(packed) > _HALF_BYTES:
            packed = msgpack.packb([*content[:3], [], [], []])
        self._half = 1 - self._half
        start = _HEADER_BYTES + self._half * _HALF_BYTES
        self._map[start : start + len(packed)] = packed
        self.set_step(step)
        _POINTER.pack_into(self._map, _POINTER_OFFSET, self._half, len(packed))


def read_journal(path: Path) -> tuple[CrashRecord, int] | None:
    """The last record of a core and the number of its last step; None where there is nothing that can be read."""
    try:
        with open(path, "rb", buffering=0) as file:  # a small part of a large file, and an I/O thread may wait for it
            header = file.read(_HEADER_BYTES)
            if header[: len(_MAGIC)] != _MAGIC:
                return None
            (step,) = _STEP.unpack_from(header, _STEP_OFFSET)
            half, length = _POINTER.unpack_from(header, _POINTER_OFFSET)
            file.seek(_HEADER_BYTES + half * _HALF_BYTES)
            values = msgpack.unpackb(file.read(length))
        pid, pid_start_ticks, written_at, running, suspects, acquittals = values
        record = CrashRecord(
            pid,
            pid_start_ticks,
            written_at,
            tuple(RunningRequest(*item) for item in running),
            tuple(Suspect(digest, _crashes(crashes), *rest) for digest, crashes, *rest in suspects),
            tuple(Acquittal(digest, _crashes(crashes), at_s) for digest, crashes, at_s in acquittals),
        )
    except (OSError, ValueError, TypeError, struct.error, msgpack.UnpackException):
        return None  # no journal, or not ours: nobody is suspected
    return record, step


def _crashes(values: Iterable[tuple[int, int]]) -> frozenset[CrashId]:
    return frozenset(CrashId(*item) for item in values)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
