"""Whether the input of a batch can be run: every line a request of its endpoint, each `custom_id` once.

Bodies are left to the endpoint, as in any batch job: what it refuses becomes a line of the error file.
"""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from frontend.batch.input_file import InputFile
from frontend.batch.ledger import LineLedger
from frontend.batch.line_source import LineSource, Reorder
from frontend.batch.lines import BatchLine, WrongLine
from frontend.batch_api.records import LineProblem

MAX_PROBLEMS = 100
"""So many wrong lines are named, and how many more there are."""
_MAX_MODEL_CHARS = 200


@dataclass(slots=True)
class InputReport:
    """What was found."""

    num_lines: int = 0
    model: str | None = None
    """That of the first line."""
    problems: list[LineProblem] = field(default_factory=list)


def check_input(path: Path, endpoint: str, *, max_line_bytes: int, stop: threading.Event) -> InputReport:
    """Read an input to its end, or until `stop` is set.

    Raises:
        ConfigError: it cannot be read.
    """
    report, num_wrong = InputReport(), 0
    with InputFile(path, max_line_bytes=max_line_bytes) as lines:
        source = LineSource(lines, LineLedger(), Reorder.NONE)
        while not stop.is_set() and (portion := source.read_portion()) is not None:
            for line in portion:
                if report.num_lines == 0 and isinstance(line, BatchLine):
                    report.model = _model_of(line)
                report.num_lines += 1
                problem = _problem_of(line, endpoint)
                if problem is not None:
                    num_wrong += 1
                    if num_wrong <= MAX_PROBLEMS:
                        report.problems.append(problem)
    if num_wrong > MAX_PROBLEMS:
        report.problems.append(LineProblem("too_many_errors", f"{num_wrong - MAX_PROBLEMS} more lines are wrong."))
    if not report.num_lines:
        report.problems.append(LineProblem("empty_file", "The input file has no lines.", "input_file_id"))
    return report


def _problem_of(line: BatchLine | WrongLine, endpoint: str) -> LineProblem | None:
    if isinstance(line, WrongLine):
        return LineProblem(line.code, line.message, line.param, line.number)
    if line.url != endpoint:
        return LineProblem("invalid_url", f"url must be the endpoint of the batch, {endpoint}.", "url", line.number)
    return None


def _model_of(line: BatchLine) -> str | None:
    model = line.body.get("model")
    return model[:_MAX_MODEL_CHARS] if isinstance(model, str) else None
