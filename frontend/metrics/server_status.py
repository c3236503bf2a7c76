"""What the launcher's `status.json` tells of the server: frontends that serve, and processes that were replaced.

The one source that is there while no core is. Read at each scrape; where there is no launcher, nothing is known.
"""

import json
from pathlib import Path

from ipc.metric_series import SeriesValues, series_key

RESTART_REASONS = ("signal", "hang", "exit")


def values_of_status(status_file: Path | None) -> SeriesValues:
    """Series of the file; none where it is not there, or says something else."""
    try:
        status = json.loads(status_file.read_text()) if status_file is not None else None
        if status is None:
            return {}
        restarts = status["core"]["restarts"]
        values: SeriesValues = {
            series_key("core_restarts_total", reason): int(restarts.get(reason, 0)) for reason in RESTART_REASONS
        }
        values["frontends"] = sum(frontend["state"] == "ready" for frontend in status["frontends"])
        values["frontend_restarts_total"] = sum(map(int, status["restarts"]["frontends"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # not there, or of another version
        return {}
    return values
