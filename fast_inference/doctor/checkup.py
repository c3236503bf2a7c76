"""Runs all checks and says what they have found, to people or as JSON.

A check that cannot look at something is a warning about that, and the others go on.
"""

import json
import platform
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from typing import TextIO

from fast_inference import __version__
from fast_inference.console import DIM, GREEN, RED, YELLOW, coloured
from fast_inference.doctor.finding import Finding, Findings, Level, Tell, warn
from fast_inference.doctor.hardware import check_hardware
from fast_inference.doctor.memory import check_memory
from fast_inference.doctor.model_files import check_model_files
from fast_inference.doctor.software import check_software
from fast_inference.doctor.surroundings import check_surroundings
from fast_inference.settings import Settings
from ipc.errors import ConfigError

CHECKS: dict[str, Callable[[Settings, Tell], Findings]] = {
    "Processor": check_hardware,
    "Software": check_software,
    "Model": check_model_files,
    "Memory": check_memory,
    "Surroundings": check_surroundings,
}
_COLOURS = {Level.OK: GREEN, Level.WARN: YELLOW, Level.FAIL: RED}
_NAME_WIDTH = 12
_MAX_WIDTH = 120

Report = dict[str, list[Finding]]
"""Findings by what they are about."""


def check_all(settings: Settings, tell: Tell) -> Report:
    """Everything, in order."""
    return {area: _run(check, settings, tell) for area, check in CHECKS.items()}


def _run(check: Callable[[Settings, Tell], Findings], settings: Settings, tell: Tell) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(check(settings, tell))
    except (OSError, ValueError, ConfigError) as error:  # `found` has what was seen before
        reason = getattr(error, "strerror", None) or str(error)
        found.append(warn("not checked", f"{reason} ({type(error).__name__})", "look at what the message names"))
    return found


def has_failed(report: Report) -> bool:
    """True if a server would not start."""
    return any(finding.level is Level.FAIL for findings in report.values() for finding in findings)


def report_as_json(report: Report) -> str:
    """All of it for programs."""
    findings = [{"area": area, **asdict(finding)} for area, found in report.items() for finding in found]
    about = {"version": __version__, "python": platform.python_version(), "platform": platform.platform()}
    return json.dumps({**about, "can_start": not has_failed(report), "findings": findings}, indent=2)


def print_report(report: Report, stream: TextIO) -> None:
    """All of it for people, and a last line that says how it stands."""
    stream.write(f"fast-inference {__version__} on {platform.system()} {platform.release()} {platform.machine()}\n")
    width = min(shutil.get_terminal_size().columns, _MAX_WIDTH) if stream.isatty() else _MAX_WIDTH
    for area, findings in report.items():
        stream.write(f"\n{area}\n")
        for finding in findings:
            _print_finding(finding, width, stream)
    found = [finding for findings in report.values() for finding in findings]
    num_failures, num_warnings = (sum(one.level is level for one in found) for level in (Level.FAIL, Level.WARN))
    stream.write(f"\n{_summary(num_failures, num_warnings)}\n")


def _print_finding(finding: Finding, width: int, stream: TextIO) -> None:
    indent = " " * (4 + 2 + _NAME_WIDTH + 2)
    head = f"{finding.name:<{_NAME_WIDTH}}  "
    lines = textwrap.wrap(finding.text, max(width - len(indent), 20), break_long_words=False, break_on_hyphens=False)
    level = coloured(f"{finding.level.value:<4}", _COLOURS[finding.level], stream)
    stream.write(f"{level}  {head}{f'{chr(10)}{indent}'.join(lines)}\n")
    if finding.fix:
        fix = textwrap.wrap(
            f"{_arrow(stream)} {finding.fix}",
            max(width - len(indent), 20),
            break_long_words=False,
            break_on_hyphens=False,
        )
        stream.write("".join(f"{indent}{coloured(line, DIM, stream)}\n" for line in fix))


def _arrow(stream: TextIO) -> str:
    try:
        "→".encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return "->"
    return "→"


def _summary(num_failures: int, num_warnings: int) -> str:
    warnings = f"{num_warnings} warning{'s' if num_warnings != 1 else ''}"
    if num_failures:
        return f"`fast-inference serve` would not start: {num_failures} to mend, {warnings}"
    return f"`fast-inference serve` can start: {warnings}" if num_warnings else "`fast-inference serve` can start"
