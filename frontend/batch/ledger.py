"""Which lines of the input are done: what the output files of a job tell, and what has come in the input since.

Invariant: of all lines with one `custom_id` exactly one is claimed, in this run or in one before. A line without a
usable `custom_id` is known by its number. A million lines take some 40 MB. Next: `line_source.py`.
"""

from collections.abc import Container
from enum import IntEnum

from frontend.batch.digest_map import DigestMap
from frontend.batch.lines import BatchLine, WrongLine, duplicate_line
from frontend.batch.result_lines import DoneLine


class _State(IntEnum):
    DONE = 1
    """In an output file, and has not come in the input yet."""
    SEEN = 2
    """Has come in the input."""


class LineLedger:
    """Owned by one job, or by one part of it."""

    def __init__(self, duplicates: Container[int] = ()) -> None:
        """`duplicates` are numbers of lines whose custom_ids are known to have come before the part that is read."""
        self._duplicates = duplicates
        self._states = DigestMap()
        self._reported_numbers = bytearray()
        """A bit for each line number that the error file has."""
        self.num_ok = 0
        """Answers in the output files of earlier runs."""
        self.num_failed = 0

    def note_done(self, done: DoneLine) -> None:
        """Take in a line of an output file."""
        if done.is_ok:
            self.num_ok += 1
        else:
            self.num_failed += 1
        if done.custom_id is not None:
            self._states.set(done.custom_id, _State.DONE)
        elif done.line_number > 0:
            self._report(done.line_number)

    def claim(self, line: BatchLine | WrongLine) -> BatchLine | WrongLine | None:
        """What is to be done for the next line of the input; None where that was done in an earlier run."""
        if line.custom_id is None:
            return None if self._is_reported(line.number) else line
        if line.number in self._duplicates:
            return duplicate_line(line)
        state = self._states.get(line.custom_id)
        self._states.set(line.custom_id, _State.SEEN)
        if state == _State.DONE:
            return None
        if state == _State.SEEN:
            return None if self._is_reported(line.number) else duplicate_line(line)
        return line

    def _report(self, number: int) -> None:
        missing = number // 8 + 1 - len(self._reported_numbers)
        if missing > 0:
            self._reported_numbers.extend(bytes(missing))
        self._reported_numbers[number // 8] |= 1 << number % 8

    def _is_reported(self, number: int) -> bool:
        return number // 8 < len(self._reported_numbers) and bool(self._reported_numbers[number // 8] >> number % 8 & 1)
