"""What the processes of a server hold: file descriptors, threads, children, memory, files, and which connections."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers import Server

_SLOT = re.compile(r"^core-\d\.")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """Of one process."""

    num_fds: int
    num_threads: int
    num_children: int
    resident_bytes: int

    @classmethod
    def of(cls, pid: int) -> "Usage":
        """Now. Raises OSError if it has ended."""
        process = Path(f"/proc/{pid}")
        tasks = list((process / "task").iterdir())
        return cls(
            num_fds=len(os.listdir(process / "fd")),
            num_threads=len(tasks),
            num_children=sum(len((task / "children").read_text().split()) for task in tasks),
            resident_bytes=int((process / "statm").read_text().split()[1]) * _PAGE_BYTES,
        )

    def exceeds(self, other: "Usage", memory_bytes: int) -> list[str]:
        """What there is more of than in the other, in words; memory may differ by so much."""
        names = ("num_fds", "num_threads", "num_children")
        more = [name for name in names if getattr(self, name) > getattr(other, name)]
        words = [f"{name[4:]} {getattr(self, name)} instead of {getattr(other, name)}" for name in more]
        if self.resident_bytes > other.resident_bytes + memory_bytes:
            words.append(f"memory +{(self.resident_bytes - other.resident_bytes) / 2**20:.1f} MiB")
        return words


def roles(server: Server) -> dict[str, int]:
    """The pid of each process that runs: `launcher`, `core`, `frontend 0`, …"""
    pids = {"launcher": server.process.pid, "core": server.core_pid}
    pids |= {f"frontend {index}": pid for index, pid in enumerate(server.frontend_pids)}
    return {role: pid for role, pid in pids.items() if pid}


def usage_of(server: Server) -> dict[str, Usage]:
    """Of each process that runs."""
    return {role: Usage.of(pid) for role, pid in roles(server).items()}


def files_of(server: Server) -> set[str]:
    """Names in the run dir, but for temporary ones; a core may be in either slot, and a slot keeps its lock."""
    names = {_SLOT.sub("core.", name) for name in os.listdir(server.run_dir) if not name.startswith("status.json.")}
    return names - {"reload.lock"}


def peer_ports(pid: int, port: int) -> set[int]:
    """The ports of the clients whose connections to a port of this machine the process holds."""
    sockets = set(_socket_inodes(pid))
    ports = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        local, remote, inode = (line.split()[index] for index in (1, 2, 9))
        if inode in sockets and int(local.rpartition(":")[2], 16) == port:
            ports.add(int(remote.rpartition(":")[2], 16))
    return ports


def _socket_inodes(pid: int) -> Iterator[str]:
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(fd)
        except FileNotFoundError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            yield target[8:-1]
