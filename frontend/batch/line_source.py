"""The lines that a job has to answer, pulled one by one, in an order that helps the prefix cache.

Lines are read ahead in portions (`input_file.py`). What is left of a portion, without what is done, is sorted by
prompts, so that those with one beginning come one after the other and the later ones find it in the cache; memory does
not grow with the file. Used by `executor.py`.
"""

import asyncio
from collections import deque
from enum import StrEnum
from typing import Protocol

import orjson

from frontend.batch.input_file import RawLine
from frontend.batch.ledger import LineLedger
from frontend.batch.lines import BatchLine, WrongLine, parse_line, too_long_line

_MAX_KEY_BYTES = 4096
_PROMPT_FIELDS = ("tools", "instructions", "messages", "prompt", "input", "query")
"""In the order in which they begin a prompt."""


class Reorder(StrEnum):
    """What decides about the order of the requests."""

    PREFIX = "prefix"
    NONE = "none"


class RawLines(Protocol):
    """Where portions come from (`input_file.py`)."""

    @property
    def max_line_bytes(self) -> int:
        """Longer ones come without their content."""

    def read_portion(self) -> list[RawLine]:
        """The next ones; empty at the end."""


class LineSource:
    """The lines of one job; several tasks may pull."""

    def __init__(self, input_file: RawLines, ledger: LineLedger, reorder: Reorder = Reorder.PREFIX) -> None:
        self._input = input_file
        self._ledger = ledger
        self._reorder = reorder
        self._ready: deque[BatchLine | WrongLine] = deque()
        self._is_at_end = False
        self._reading = asyncio.Lock()

    async def next(self) -> BatchLine | WrongLine | None:
        """The next line that is not done yet; None at the end.

        Raises:
            ConfigError: the input cannot be read on.
        """
        while not self._ready and not self._is_at_end:
            async with self._reading:
                if not self._ready and not self._is_at_end:
                    await asyncio.to_thread(self.fill)
        return self._ready.popleft() if self._ready else None

    def fill(self) -> bool:
        """Read on where no line is ready; False if none is left. Raises as `next` does."""
        while not self._ready and not self._is_at_end:
            portion = self.read_portion()
            if portion is None:
                self._is_at_end = True
            else:
                self._ready.extend(portion)
        return bool(self._ready)

    def read_portion(self) -> list[BatchLine | WrongLine] | None:
        """What is to be done of the next portion, in order; None at the end. Raises as `next` does."""
        raw_lines = self._input.read_portion()
        if not raw_lines:
            return None
        claimed = [self._ledger.claim(self._parsed(number, raw)) for number, raw in raw_lines]
        lines = [line for line in claimed if line is not None]
        return sorted(lines, key=prefix_key) if self._reorder is Reorder.PREFIX else lines

    def _parsed(self, number: int, raw: bytes | None) -> BatchLine | WrongLine:
        return too_long_line(number, self._input.max_line_bytes) if raw is None else parse_line(raw, number)


def prefix_key(line: BatchLine | WrongLine) -> tuple[str, bytes]:
    """Lines whose prompts begin alike are neighbours in this order; wrong lines come first."""
    if isinstance(line, WrongLine):
        return "", b""
    prompt = [line.body.get(name) for name in _PROMPT_FIELDS]
    return line.url, orjson.dumps(prompt)[:_MAX_KEY_BYTES]
