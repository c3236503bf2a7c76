"""The end of a batch: what its job has written becomes its two files, and is counted.

Blocking; called in threads. Invariant: all of it may be done again after it was cut off anywhere, with the same result:
content is renamed once, under an id that follows from the batch, and nothing is run any more by then.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from frontend.batch.input_file import InputFile
from frontend.batch.job import JobFiles
from frontend.batch.ledger import LineLedger
from frontend.batch.line_source import LineSource, Reorder
from frontend.batch.lines import WrongLine
from frontend.batch.output_file import OutputFile
from frontend.batch.result_lines import wrong_line
from frontend.batch_api.records import BatchRecord, FileRecord, Purpose, ResultName, TokenUsage, result_file_id
from frontend.batch_api.state_dir import StateDir

_PROBE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Results:
    """What a batch leaves."""

    output: FileRecord | None
    """None where nothing was answered."""
    errors: FileRecord | None
    """None where nothing failed."""
    num_completed: int
    num_failed: int
    usage: TokenUsage


def files_of(state_dir: StateDir, batch_id: str) -> JobFiles:
    """Those of the job of a batch."""
    folder = state_dir.job(batch_id)
    return JobFiles(folder / "input.jsonl", folder / "output.jsonl", folder / "errors.jsonl")


def check_room(files: JobFiles) -> None:
    """See whether the files of a job can grow, so that nothing is computed that could not be kept; raises OSError."""
    for path in (files.output, files.errors):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            try:
                os.posix_fallocate(descriptor, size, _PROBE_BYTES)
            finally:
                os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)


def give_up_rest(files: JobFiles, code: str, message: str, *, max_line_bytes: int) -> None:
    """Write an error for every line that has no result.

    Raises:
        ConfigError: a file cannot be read or written.
    """
    ledger = LineLedger()
    with (
        InputFile(files.input, max_line_bytes=max_line_bytes) as lines,
        OutputFile(files.output) as output,
        OutputFile(files.errors) as errors,
    ):
        output.recover(ledger.note_done)
        errors.recover(ledger.note_done)
        source = LineSource(lines, ledger, Reorder.NONE)
        while (portion := source.read_portion()) is not None:
            for line in portion:
                errors.append(wrong_line(WrongLine(line.number, line.custom_id, code, message)))


def publish_results(state_dir: StateDir, batch: BatchRecord, now: int) -> Results:
    """Give the files of a job their places among the files of the API.

    Raises:
        ConfigError, OSError: a file cannot be read or written.
    """
    files = files_of(state_dir, batch.id)
    ledger = LineLedger()
    output = _publish(state_dir, batch, files.output, ResultName.OUTPUT, ledger, now)
    errors = _publish(state_dir, batch, files.errors, ResultName.ERRORS, ledger, now)
    usage = TokenUsage() if output is None else _usage_of(state_dir.file(output.id))
    return Results(output, errors, ledger.num_ok, ledger.num_failed, usage)


def _publish(
    state_dir: StateDir, batch: BatchRecord, path: Path, name: ResultName, ledger: LineLedger, now: int
) -> FileRecord | None:
    file_id = result_file_id(batch.id, name)
    place = state_dir.file(file_id)
    if path.exists() and path.stat().st_size:
        _cut_torn_line(path)
        if path.stat().st_size:
            state_dir.publish(path, file_id)
    if not place.exists():
        return None
    with OutputFile(place) as file:
        file.recover(ledger.note_done)
    after_s = batch.output_expires_after_s
    return FileRecord(
        file_id,
        batch.key_id,
        now,
        place.stat().st_size,
        f"{batch.id}_{name}.jsonl",
        Purpose.BATCH_OUTPUT,
        None if after_s is None else now + after_s,
    )


def _cut_torn_line(path: Path) -> None:
    """A process that was killed may have left one, and the machine may have lost what was not synced."""
    with OutputFile(path) as file:
        file.recover(lambda done: None)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _usage_of(path: Path) -> TokenUsage:
    num_input = num_cached = num_output = num_reasoning = 0
    with path.open("rb") as lines:
        for raw in lines:
            usage = orjson.loads(raw)["response"]["body"].get("usage") or {}
            num_input += _count(usage, "prompt_tokens", "input_tokens")
            num_output += _count(usage, "completion_tokens", "output_tokens")
            inputs = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
            outputs = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
            num_cached += _count(inputs, "cached_tokens")
            num_reasoning += _count(outputs, "reasoning_tokens")
    return TokenUsage(num_input, num_cached, num_output, num_reasoning)


def _count(values: dict[str, Any], *names: str) -> int:
    """The first that is there; chat completions and responses have different names for the same."""
    return next((int(values[name]) for name in names if values.get(name)), 0)
