"""Two hosts as network namespaces of this machine, with a link between them that can be cut in two ways.

For `scripts/check_namespaces.py`; needs root and iproute2. The thread that enters is on the host of the frontends from
then on, and its children too, unless they are started on the other one. Files are shared, but for those that a command
is started without. Invariant: when the context is left, the namespaces are gone and the thread is where it was.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ipc.errors import ConfigError

CORES, FRONTENDS = "cores", "frontends"
ADDRESSES = {CORES: "10.213.71.1", FRONTENDS: "10.213.71.2"}
_NOBODY = "02:00:00:00:00:99"
"""Nobody has this hardware address: what is sent to it is lost without a word to anybody."""
_CLONE_NEWNET = 0x40000000


class TwoHosts:
    """The hosts `cores` and `frontends`, on one link; a context manager."""

    def __init__(self) -> None:
        self._names = {host: f"fi-{os.getpid()}-{host}" for host in ADDRESSES}
        self._devices = {CORES: f"fic{os.getpid()}", FRONTENDS: f"fif{os.getpid()}"}

    def __enter__(self) -> Self:
        """Make them.

        Raises:
            ConfigError: this machine or this user cannot.
        """
        if shutil.which("ip") is None:
            raise ConfigError("cannot make network namespaces: there is no ip (apt-get install iproute2)")
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            for name in self._names.values():
                _ip("netns", "add", name)
            ends = (self._devices[CORES], "netns", self._names[CORES])
            peer = (self._devices[FRONTENDS], "netns", self._names[FRONTENDS])
            _ip("link", "add", *ends, "type", "veth", "peer", "name", *peer)
            for host, address in ADDRESSES.items():
                self._on(host, "addr", "add", f"{address}/30", "dev", self._devices[host])
                self._on(host, "link", "set", "lo", "up")
                self._on(host, "link", "set", self._devices[host], "up")
            with open(f"/run/netns/{self._names[FRONTENDS]}") as namespace:
                _enter(namespace.fileno())
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _enter(self._home)
        self._remove()

    def command(self, host: str, argv: Sequence[str], without: Sequence[Path] = ()) -> list[str]:
        """A command that runs these arguments on a host, for which the folders `without` are empty."""
        hide = "".join(f'mount -t tmpfs none "{folder}" && ' for folder in without)
        return ["ip", "netns", "exec", self._names[host], "sh", "-c", f'{hide}exec "$@"', "sh", *argv]

    def drop_packets(self) -> None:
        """Lose what is sent from now on, both ways; nobody is told."""
        for host, other in ((CORES, FRONTENDS), (FRONTENDS, CORES)):
            lost = ("lladdr", _NOBODY, "dev", self._devices[host], "nud", "permanent")
            self._on(host, "neigh", "replace", ADDRESSES[other], *lost)

    def unplug(self) -> None:
        """Take the link down at the host of the cores, which both kernels see."""
        self._on(CORES, "link", "set", self._devices[CORES], "down")

    def mend(self) -> None:
        """End both."""
        self._on(CORES, "link", "set", self._devices[CORES], "up")
        for host, other in ((CORES, FRONTENDS), (FRONTENDS, CORES)):
            self._on(host, "neigh", "flush", "to", ADDRESSES[other], "nud", "permanent")

    def _on(self, host: str, *arguments: str) -> None:
        _ip("-n", self._names[host], *arguments)

    def _remove(self) -> None:
        os.close(self._home)
        for name in self._names.values():
            if Path(f"/run/netns/{name}").exists():
                _ip("netns", "del", name)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        problem = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise ConfigError(f"cannot make network namespaces: ip {' '.join(arguments)}: {problem}")


def _enter(namespace: int) -> None:
    """Have this thread use another network; Python has `os.setns` from 3.12 on."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise ConfigError(f"cannot enter a network namespace: {os.strerror(ctypes.get_errno())}")
