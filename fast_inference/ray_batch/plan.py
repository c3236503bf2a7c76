"""Cuts the input of a job into blocks of lines, each of which becomes one part of the output.

One pass over the whole input, before any model runs, so that a `custom_id` that comes twice is seen wherever its lines
are: blocks carry the numbers of lines whose `custom_id` has come before. Invariant: the plan depends on the input, the
length of blocks and the longest line alone, so that the same command makes the same plan, and a plan that differs tells
of an input that does. Next: `parts.py`, `worker.py`.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fast_inference.ray_batch.inputs import input_names, open_input
from frontend.batch.input_file import PORTION_LINES, Position, RawLine
from frontend.batch.ledger import LineLedger
from frontend.batch.lines import parse_line, too_long_line
from ipc.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive lines of one file."""

    index: int
    """From 0, in the order of the input."""
    name: str
    """Of the file, relative to the input."""
    begin: Position
    num_lines: int
    """That are not blank."""
    duplicates: tuple[int, ...]
    """Numbers of the lines whose `custom_id` has come before, anywhere in the input."""
    digest: str
    """Of the lines."""

    def to_json(self) -> bytes:
        """What `from_json` reads."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> "Block":
        """What `to_json` wrote."""
        values: dict[str, Any] = orjson.loads(text)
        begin, duplicates = Position(**values["begin"]), tuple(values["duplicates"])
        return cls(**{**values, "begin": begin, "duplicates": duplicates})


class BlockLines:
    """The lines of a block, all in memory; read like an input (`frontend/batch/line_source.py`)."""

    def __init__(self, lines: list[RawLine], max_line_bytes: int) -> None:
        self.max_line_bytes = max_line_bytes
        self._lines = lines

    def read_portion(self) -> list[RawLine]:
        """All at first, then none."""
        portion, self._lines = self._lines, []
        return portion


def plan_blocks(root: Path, lines_per_block: int, max_body_bytes: int) -> Iterator[Block]:
    """The blocks of an input, in order.

    Raises:
        ConfigError: a file cannot be read.
    """
    ledger = LineLedger()
    index = 0
    for name in input_names(root):
        with open_input(root, name, max_body_bytes) as reader:
            while True:
                begin = reader.position
                digest = hashlib.blake2b(digest_size=8)
                duplicates: list[int] = []
                num_lines = 0
                while portion := reader.read_portion(min(lines_per_block - num_lines, PORTION_LINES)):
                    num_lines += len(portion)
                    for raw in portion:
                        _add_to_digest(digest, raw)
                        if _is_duplicate(raw, reader.max_line_bytes, ledger):
                            duplicates.append(raw[0])
                if num_lines == 0:
                    break
                yield Block(index, name, begin, num_lines, tuple(duplicates), digest.hexdigest())
                index += 1


def read_block(root: Path, block: Block, max_body_bytes: int) -> BlockLines:
    """Its lines.

    Raises:
        ConfigError: the file cannot be read, or has changed since the plan was made.
    """
    digest = hashlib.blake2b(digest_size=8)
    lines: list[RawLine] = []
    with open_input(root, block.name, max_body_bytes, block.begin) as reader:
        while portion := reader.read_portion(min(block.num_lines - len(lines), PORTION_LINES)):
            lines += portion
        max_line_bytes = reader.max_line_bytes
    for raw in lines:
        _add_to_digest(digest, raw)
    if digest.hexdigest() != block.digest:
        raise ConfigError(f"{root / block.name} has changed while the job runs")
    return BlockLines(lines, max_line_bytes)


def manifest(blocks: list[Block], output_format: str) -> bytes:
    """What the output folder remembers of a job, as JSON."""
    values = {"format": output_format, "blocks": [dataclasses.asdict(block) for block in blocks]}
    return orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)


def _is_duplicate(raw: RawLine, max_line_bytes: int, ledger: LineLedger) -> bool:
    number, content = raw
    line = too_long_line(number, max_line_bytes) if content is None else parse_line(content, number)
    return ledger.claim(line) is not line


def _add_to_digest(digest: "hashlib.blake2b", raw: RawLine) -> None:
    number, content = raw
    digest.update(f"{number} {-1 if content is None else len(content)} ".encode())
    digest.update(content or b"")
