"""Who was running when a core died: a file that its successor reads.

One file for each core in the run dir, mapped into memory, so that what was written is there whatever the end of the
process was. Written by `quarantine.py` when the set of running requests changes; each step only writes its number.
Invariant: a reader finds the last record that was written completely, since records alternate between two halves and
the header names the valid one afterwards.

    header   magic 8 bytes, step u64, half u32, length u32
    halves   msgpack of a `CrashRecord` as an array
"""

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import msgpack

from ipc.process import start_ticks

_MAGIC = b"fi-jrnl1"
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


@dataclass(frozen=True, slots=True)
class Suspect:
    """A request that was running when a core died."""

    digest: bytes
    num_crashes: int
    crashed_at_s: float
    """The last time, wall clock in seconds."""
    num_output_tokens: int
    """Tokens that it had at most with the one that was being computed; with that one it is past that place."""


@dataclass(frozen=True, slots=True)
class CrashRecord:
    """What a core says about itself, for the case that it dies."""

    pid: int
    pid_start_ticks: int
    step: int
    """The step in which the record was written."""
    running: tuple[RunningRequest, ...]
    suspects: tuple[Suspect, ...]

    @property
    def is_alive(self) -> bool:
        """True while its core lives."""
        return start_ticks(self.pid) == self.pid_start_ticks


class CrashJournal:
    """The journal of this core."""

    def __init__(self, path: Path) -> None:
        """Begin a new journal in place of what is there.

        Raises:
            OSError: there is no room for it.
        """
        self._pid, self._pid_start_ticks = os.getpid(), start_ticks(os.getpid())
        self._half = 0
        size = _HEADER_BYTES + 2 * _HALF_BYTES
        with open(path, "w+b", opener=_open_private) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a write to a mapped file on a full disk ends the process
            self._map = mmap.mmap(file.fileno(), size)
        self.write(0, (), ())
        self._map[: len(_MAGIC)] = _MAGIC

    def close(self) -> None:
        """Let go of the file; what is in it stays."""
        self._map.close()

    def set_step(self, step: int) -> None:
        """A step begins."""
        _STEP.pack_into(self._map, _STEP_OFFSET, step)

    def write(self, step: int, running: tuple[RunningRequest, ...], suspects: tuple[Suspect, ...]) -> None:
        """Replace the record."""
        content = [
            self._pid,
            self._pid_start_ticks,
            step,
            [[request.digest, request.num_output_tokens] for request in running],
            [[item.digest, item.num_crashes, item.crashed_at_s, item.num_output_tokens] for item in suspects],
        ]
        packed = msgpack.packb(content)
        if len(packed) > _HALF_BYTES:
            packed = msgpack.packb([*content[:3], [], []])
        self._half = 1 - self._half
        start = _HEADER_BYTES + self._half * _HALF_BYTES
        self._map[start : start + len(packed)] = packed
        self.set_step(step)
        _POINTER.pack_into(self._map, _POINTER_OFFSET, self._half, len(packed))


def read_journal(path: Path) -> tuple[CrashRecord, int] | None:
    """The last record of a core and the number of its last step; None where there is nothing that can be read."""
    try:
        content = path.read_bytes()
        if content[: len(_MAGIC)] != _MAGIC:
            return None
        (step,) = _STEP.unpack_from(content, _STEP_OFFSET)
        half, length = _POINTER.unpack_from(content, _POINTER_OFFSET)
        start = _HEADER_BYTES + half * _HALF_BYTES
        pid, pid_start_ticks, written_at, running, suspects = msgpack.unpackb(content[start : start + length])
        record = CrashRecord(
            pid,
            pid_start_ticks,
            written_at,
            tuple(RunningRequest(*item) for item in running),
            tuple(Suspect(*item) for item in suspects),
        )
    except (OSError, ValueError, TypeError, struct.error, msgpack.UnpackException):
        return None  # no journal, or not ours: nobody is suspected
    return record, step


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
