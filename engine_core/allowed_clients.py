"""Whose keys let them in from other hosts, as of now: the `*.key` files in a folder, whenever they come.

Asked by the ZAP handler of `core_socket.py` for each client that knocks, so that a client is added by writing its file
and taken out by removing it, without a restart; connections that are open stay. The folder is looked at when it has
changed, and otherwise once a second at most. Invariant: a file that cannot be read lets nobody in, and keeps nobody
else out. Next: `ipc/curve.py`.
"""

import contextlib
import logging
import os
import time
from dataclasses import dataclass

from zmq.utils import z85

from ipc.curve import CurveDir
from ipc.errors import ConfigError

log = logging.getLogger(__name__)

_LOOK_INTERVAL_S = 1.0
"""Files may change without a change of their folder."""


@dataclass(frozen=True, slots=True)
class _KeyFile:
    stamp: tuple[int, int, int]
    """Differs whenever the content does, or who may read it."""
    raw_key: bytes
    """32 bytes; empty where the file has none."""


class AllowedClients:
    """The clients that a folder of keys names."""

    def __init__(self, folder: CurveDir) -> None:
        """Nothing is read yet."""
        self._folder = folder
        self._files: dict[str, _KeyFile] = {}
        """By name of the client."""
        self._name_of: dict[bytes, str] = {}
        self._folder_stamp = 0
        self._looked_at = -_LOOK_INTERVAL_S

    def name_of(self, raw_key: bytes) -> str | None:
        """The client with this public key of 32 bytes; None where nobody is allowed by it."""
        self._look()
        return self._name_of.get(raw_key)

    def _look(self) -> None:
        """See what has changed, unless that was done just now."""
        now = time.monotonic()
        try:
            folder_stamp = self._folder.clients_dir.stat().st_mtime_ns
            if folder_stamp == self._folder_stamp and now - self._looked_at < _LOOK_INTERVAL_S:
                return
            stamps = self._stamps()
        except FileNotFoundError:  # with all that it had
            folder_stamp, stamps = 0, {}
        except OSError as error:
            log.warning("cannot look for keys in %s: %s", self._folder.clients_dir, error.strerror)
            return
        self._folder_stamp, self._looked_at = folder_stamp, now
        self._read(stamps)

    def _stamps(self) -> dict[str, tuple[int, int, int]]:
        stamps = {}
        with os.scandir(self._folder.clients_dir) as entries:
            for entry in entries:
                name, suffix = os.path.splitext(entry.name)
                if suffix == ".key" and not name.startswith("."):  # such a one is being written
                    with contextlib.suppress(FileNotFoundError):  # it is gone
                        found = entry.stat()
                        stamps[name] = found.st_ino, found.st_ctime_ns, found.st_size
        return stamps

    def _read(self, stamps: dict[str, tuple[int, int, int]]) -> None:
        """Read the files that are new or differ from what was read, and forget those that are gone."""
        names_before = set(self._name_of.values())
        files = {}
        for name, stamp in stamps.items():
            known = self._files.get(name)
            files[name] = known if known is not None and known.stamp == stamp else _KeyFile(stamp, self._key_of(name))
        self._files = files
        self._name_of = {file.raw_key: name for name, file in files.items() if file.raw_key}
        names = set(self._name_of.values())
        if names_before and names != names_before:
            added, removed = sorted(names - names_before), sorted(names_before - names)
            log.info("clients of other hosts: added %s; removed %s", ", ".join(added) or "-", ", ".join(removed) or "-")

    def _key_of(self, name: str) -> bytes:
        try:
            return bytes(z85.decode(self._folder.client_public_key(name)))
        except ConfigError as error:
            log.warning("a client of other hosts is not let in: %s", error.message)
            return b""
