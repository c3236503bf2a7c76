"""What the launcher's `status.json` tells of the server: frontends that serve, and processes that were replaced.

The one source that is there while no core is. Read at each scrape; where there is no launcher, nothing is known.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipc.core_directory import ONLY_CORE
from ipc.metric_series import SeriesValues, series_key

RESTART_REASONS = ("signal", "hang", "exit")


@dataclass(slots=True)
class LauncherValues:
    """Series of the file."""

    of_server: SeriesValues = field(default_factory=dict)
    of_cores: dict[str, SeriesValues] = field(default_factory=dict)
    """By the name of the core."""


def values_of_status(status_file: Path | None) -> LauncherValues:
    """What the file says; nothing where it is not there, or says something else."""
    try:
        status = json.loads(status_file.read_text()) if status_file is not None else None
        return LauncherValues() if status is None else _values(status)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # not there, or of another version
        return LauncherValues()


def _values(status: dict[str, Any]) -> LauncherValues:
    cores = status.get("cores") or [{"name": ONLY_CORE, **status["core"]}]
    return LauncherValues(
        of_server={
            "frontends": sum(frontend["state"] == "ready" for frontend in status["frontends"]),
            "frontend_restarts_total": sum(map(int, status["restarts"]["frontends"])),
        },
        of_cores={str(core["name"]): _restarts(core["restarts"]) for core in cores},
    )


def _restarts(restarts: dict[str, Any]) -> SeriesValues:
    return {series_key("core_restarts_total", reason): int(restarts.get(reason, 0)) for reason in RESTART_REASONS}
