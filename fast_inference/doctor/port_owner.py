"""Who listens on a TCP port of this machine, as far as this user may know."""

import os
from pathlib import Path

_LISTEN = "0A"


def listeners_of(port: int, proc: Path = Path("/proc")) -> list[tuple[int, str]]:
    """Pid and name of each process that listens on the port; empty where it is somebody else's, or nobody's."""
    inodes = {f"socket:[{inode}]" for name in ("tcp", "tcp6") for inode in _listening_inodes(proc / "net" / name, port)}
    return [(pid, name) for pid, name in _processes(proc) if inodes and _has_any(proc / str(pid) / "fd", inodes)]


def _listening_inodes(table: Path, port: int) -> list[str]:
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [row[9] for row in rows if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port]


def _processes(proc: Path) -> list[tuple[int, str]]:
    found = []
    for path in proc.iterdir():
        if path.name.isdecimal():
            try:
                found.append((int(path.name), (path / "comm").read_text().strip()))
            except OSError:  # it has ended meanwhile
                continue
    return sorted(found)


def _has_any(folder: Path, names: set[str]) -> bool:
    try:
        descriptors = list(folder.iterdir())
    except OSError:  # of another user
        return False
    for descriptor in descriptors:
        try:
            if os.readlink(descriptor) in names:
                return True
        except OSError:
            continue
    return False
