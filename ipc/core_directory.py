"""Where the cores of a server are: `cores.json` in its run dir.

Written by whoever supervises the cores, each time that one comes, goes or moves; read by every client of the run dir.
A run dir without the file has one core, at its own `core.sock`. Invariant: a reader never sees half of it, and a file
that cannot be read changes nothing. Next: `ipc/client.py`, which follows it.

    {"cores": {"0": {"socket": "core.sock"},
               "a1": {"endpoint": "tcp://10.0.0.2:5555", "server_key": …, "curve_dir": …, "client_name": …}}}
"""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipc.endpoints import CoreAddress, RemoteCore, RunDir
from ipc.errors import ConfigError

log = logging.getLogger(__name__)

ONLY_CORE = "0"
"""Name of the core of a server that has one."""


def read_cores(run_dir: RunDir) -> dict[str, CoreAddress]:
    """Addresses by name.

    Raises:
        ConfigError: the file is there and is not what `write_cores` writes.
    """
    try:
        content = json.loads(run_dir.cores_file.read_text())
        return {name: _address_of(run_dir, entry) for name, entry in content["cores"].items()}
    except FileNotFoundError:
        return {ONLY_CORE: run_dir.core_socket}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"cannot read {run_dir.cores_file}: {error}") from error


def write_cores(run_dir: RunDir, cores: Mapping[str, CoreAddress]) -> None:
    """Replace the file; sockets must be inside the run dir.

    Raises:
        OSError: it cannot be written.
    """
    content = {"cores": {name: _entry_of(run_dir, address) for name, address in cores.items()}}
    temporary = run_dir.cores_file.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, run_dir.cores_file)


class CoreDirectory:
    """The file of one run dir, read again when it has changed."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._stamp: tuple[int, int] | None = None
        self._addresses: dict[str, CoreAddress] | None = None

    def addresses(self) -> Mapping[str, CoreAddress]:
        """Addresses by name, in the order of the file; those of before where it cannot be read."""
        stamp = self._current_stamp()
        if self._addresses is None or stamp != self._stamp:
            try:
                self._addresses = read_cores(self._run_dir)
            except ConfigError as error:
                log.warning("%s", error.message)
                self._addresses = self._addresses or {}
            self._stamp = stamp
        return self._addresses

    def _current_stamp(self) -> tuple[int, int] | None:
        """Differs whenever the file was replaced; None where there is none."""
        try:
            found = self._run_dir.cores_file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns


def _address_of(run_dir: RunDir, entry: dict[str, Any]) -> CoreAddress:
    if "socket" in entry:
        return run_dir.path / Path(entry["socket"])
    curve_dir = Path(entry["curve_dir"])
    return RemoteCore(entry["endpoint"], curve_dir, entry.get("client_name", "client"), entry.get("server_key", ""))


def _entry_of(run_dir: RunDir, address: CoreAddress) -> dict[str, str]:
    if isinstance(address, RemoteCore):
        return {
            "endpoint": address.endpoint,
            "server_key": address.server_key,
            "curve_dir": str(address.curve_dir.absolute()),
            "client_name": address.client_name,
        }
    return {"socket": str(address.relative_to(run_dir.path))}
