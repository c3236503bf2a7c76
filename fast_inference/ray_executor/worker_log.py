"""Logging of our actors, in the processes that Ray starts for them: to stderr, which Ray keeps in a file of its own."""

from collections.abc import Mapping
from typing import Any

from ipc.config import LogConfig
from ipc.log import configure_logging


def configure_worker_logging(told: Mapping[str, Any], process: str) -> None:
    """As the launcher that made the fleet logs."""
    configure_logging(LogConfig.model_validate({name: told[name] for name in LogConfig.model_fields}), process)
