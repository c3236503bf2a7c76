"""`fleet.json` in the run dir: what the agent tells the launcher of its fleet. Where cores are is in `cores.json`.

Written by `agent.py` whenever it changes, read by `fleet.py`. Invariant: a reader never sees half of it.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FleetCore:
    """One core."""

    name: str
    node_id: str
    """As Ray names its node."""
    host: str
    """Address of its node."""
    state: str
    pid: int | None
    epoch: int
    num_blocks: int = 0
    num_running: int = 0
    can_generate: bool = True
    last_exit: str = ""
    restarts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FleetState:
    """The fleet, as the agent sees it."""

    stage: str = ""
    """What is waited for, for people; empty once all cores that are wanted serve."""
    num_listed: int = 0
    """Cores that clients use."""
    num_wanted: int = 0
    cores: tuple[FleetCore, ...] = ()

    def write(self, path: Path) -> None:
        """Replace the file; raises OSError."""
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")
        os.replace(temporary, path)

    @classmethod
    def read(cls, path: Path) -> "FleetState":
        """What was written last; nothing where nothing was."""
        try:
            values = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return cls()
        return cls(**{**values, "cores": tuple(FleetCore(**core) for core in values["cores"])})
