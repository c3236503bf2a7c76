"""`config.json` in the run dir: the resolved settings, from which the other processes read their sections.

Written by whoever starts an engine core: the launcher, or an engine inside another program. Only its user can read it.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fast_inference.settings import Settings
from ipc.errors import ConfigError


def write_config(settings: Settings, path: Path) -> None:
    """Write the settings; raises `ConfigError` where that cannot be done."""
    write_values(settings.model_dump(mode="json", exclude={"config"}), path)


def write_values(values: Mapping[str, Any], path: Path) -> None:
    """The same where they are values by field name already, as JSON has them; those that are missing are defaults."""
    try:
        with open(path, "w", opener=_open_private) as file:
            os.fchmod(file.fileno(), 0o600)  # it may be there from before
            file.write(json.dumps(values, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
