"""Puts the output file of a complete job in the order of its input, for `--ordered`.

While a job runs its file is in the order in which lines end, which is what can be resumed. The sorted file takes its
place in one step; both are there meanwhile. Memory: 24 to 36 bytes for a line.
"""

import os
from pathlib import Path

from frontend.batch.digest_map import DigestMap
from frontend.batch.input_file import InputFile
from frontend.batch.lines import parse_line
from frontend.batch.result_lines import read_result_line
from ipc.errors import ConfigError

_WRITTEN = 2**64 - 1


def put_in_order(input_path: Path, output_path: Path, *, max_line_bytes: int) -> None:
    """Sort the lines of the output; those that the input does not have come last. A link to it stays a link.

    Raises:
        ConfigError: a file cannot be read or written; the output is as it was.
    """
    output_path = output_path.resolve()
    sorted_path = output_path.with_name(f"{output_path.name}.sorted")
    try:
        with InputFile(input_path, max_line_bytes=max_line_bytes) as lines:
            _write_sorted(lines, output_path, sorted_path)
        os.replace(sorted_path, output_path)
        folder = os.open(output_path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, ValueError) as error:
        sorted_path.unlink(missing_ok=True)
        raise ConfigError(f"cannot sort {output_path}: {getattr(error, 'strerror', None) or error}") from error


def _write_sorted(lines: InputFile, output_path: Path, sorted_path: Path) -> None:
    offsets = DigestMap("Q")
    with output_path.open("rb") as output, sorted_path.open("wb") as target:
        offset = 0
        for raw in output:
            offsets.set(read_result_line(raw).custom_id or "", offset + 1)
            offset += len(raw)
        while portion := lines.read_portion():
            for number, content in portion:
                custom_id = None if content is None else parse_line(content, number).custom_id
                at = 0 if custom_id is None else offsets.get(custom_id)
                if custom_id is not None and at not in (0, _WRITTEN):
                    output.seek(at - 1)
                    target.write(output.readline())
                    offsets.set(custom_id, _WRITTEN)
        output.seek(0)
        for raw in output:
            if offsets.get(read_result_line(raw).custom_id or "") != _WRITTEN:
                target.write(raw)
        target.flush()
        os.fsync(target.fileno())
