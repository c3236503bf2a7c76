"""`run-batch --check`: whether every line of an input is a request; bodies are looked at as far as their fields go."""

import sys
import time
from pathlib import Path

from frontend.batch.input_file import InputFile
from frontend.batch.job import LINE_ROOM_BYTES
from frontend.batch.ledger import LineLedger
from frontend.batch.line_source import LineSource, Reorder
from frontend.batch.lines import WrongLine
from ipc.exit_codes import EXIT_CONFIG_ERROR

_MAX_SHOWN = 20


def check_input(path: Path, max_body_bytes: int) -> int:
    """Print what is wrong; returns 0 if nothing is, else 1.

    Raises:
        ConfigError: the file cannot be read.
    """
    num_lines = num_wrong = 0
    began_at = time.perf_counter()
    with InputFile(path, max_line_bytes=max_body_bytes + LINE_ROOM_BYTES) as lines:
        source = LineSource(lines, LineLedger(), Reorder.NONE)
        while (portion := source.read_portion()) is not None:
            num_lines += len(portion)
            for line in portion:
                if isinstance(line, WrongLine):
                    num_wrong += 1
                    if num_wrong <= _MAX_SHOWN:
                        sys.stdout.write(f"line {line.number}: {line.message}\n")
    rate = num_lines / max(time.perf_counter() - began_at, 1e-9)
    sys.stdout.write(f"{num_lines:,} lines, {num_wrong:,} wrong ({rate:,.0f} lines/s)\n")
    return EXIT_CONFIG_ERROR if num_wrong else 0
