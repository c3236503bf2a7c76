"""The core's ROUTER with all that stands at its door: who may connect, how many, and how often somebody was refused.

Clients on this machine come by ipc, where the run dir's mode says who they may be. Clients of other hosts come by tcp,
where there is one (`--core-endpoint`): CURVE encrypts and shows their keys, and this is the ZAP handler that asks
`allowed_clients.py` for the allowed ones. Options are copied when a socket is bound, so those for tcp do not touch ipc.
Owned by the I/O thread. Next: `connection_guard.py`, `allowed_clients.py`.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import zmq

from engine_core.allowed_clients import AllowedClients
from engine_core.connection_guard import ConnectionGuard
from ipc.counted_warning import CountedWarning
from ipc.curve import CurveDir, KeyPair
from ipc.endpoint_config import EndpointConfig
from ipc.endpoints import DEAD_AFTER_MS, HEARTBEAT_MS, make_core_socket
from ipc.errors import ConfigError

log = logging.getLogger(__name__)

MIN_LIBZMQ_VERSION = (4, 3, 5)
_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_ZAP_VERSION = b"1.0"


@dataclass(frozen=True, slots=True)
class RemoteAccess:
    """The tcp endpoint, and who may use it."""

    endpoint: str
    keys: KeyPair
    folder: CurveDir
    """Has the keys of those who may connect."""

    @classmethod
    def of(cls, config: EndpointConfig, core_index: int = 0) -> "RemoteAccess | None":
        """Read the keys; None where there is no such endpoint. Each core of a server has a port of its own.

        Raises:
            ConfigError: a key is missing, damaged or readable for others.
        """
        if config.core_endpoint is None or config.curve_dir is None:
            return None
        folder = CurveDir(config.curve_dir)
        folder.allowed_clients()  # what is wrong at the start is told at the start
        return cls(config.endpoint_of(core_index), folder.server_keys(), folder)


class CoreSocket:
    """A bound ROUTER; public methods are for the thread that owns it."""

    def __init__(self, path: Path, num_descriptors: int) -> None:
        """Bind to `path`; raises `ConfigError` where libzmq is too old."""
        if zmq.zmq_version_info() < MIN_LIBZMQ_VERSION:
            raise ConfigError(f"libzmq {zmq.zmq_version()} is too old: 4.3.5 or later is needed (pyzmq 27)")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = make_core_socket(self._context)
        self._guard = ConnectionGuard(self._context, self.socket, num_descriptors)
        self._zap = _ZapHandler(self._context)
        self._remote: RemoteAccess | None = None
        """What is listened on, or waited for."""
        self._bound_endpoint = ""
        """As libzmq calls it, while it is listened on."""
        self.socket.bind(f"ipc://{path}")

    @property
    def num_ended(self) -> int:
        """Connections that are over."""
        return self._guard.num_ended

    @property
    def stats(self) -> dict[str, int]:
        """Connections of now, those that were more than allowed, and those without an allowed key."""
        return {
            "num_connections": self._guard.num_open,
            "num_cut_connections": self._guard.num_cut,
            "num_refused_keys": self._zap.warning.num,
        }

    def open_remote(self, remote: RemoteAccess) -> None:
        """Listen for other hosts; raises `ConfigError` where the endpoint cannot be had."""
        self._remote = remote
        self._zap.allow(remote.folder)
        self._bind_remote(remote)

    def open_remote_when_free(self, remote: RemoteAccess) -> None:
        """The same once the core that has the endpoint now has let go of it: it is tried in each `report`."""
        self._remote = remote
        self._zap.allow(remote.folder)
        self._try_remote()

    def close_remote(self) -> None:
        """Leave the endpoint to another core; connections through it end, as libzmq has it."""
        if self._bound_endpoint:
            self.socket.unbind(self._bound_endpoint)
        self._remote, self._bound_endpoint = None, ""

    def register(self, poller: zmq.Poller) -> None:
        """Let a poller watch everything; its events are for `on_events`."""
        poller.register(self.socket, zmq.POLLIN)
        poller.register(self._guard.events, zmq.POLLIN)
        poller.register(self._zap.socket, zmq.POLLIN)

    def on_events(self, sources: list[object]) -> None:
        """Take in what happened at the door; messages are not looked at."""
        if self._guard.events in sources:
            self._guard.take_events()
        if self._zap.socket in sources:
            self._zap.answer()

    def report(self) -> None:
        """Log what has not been logged one by one, and try what could not be done; to be called now and then."""
        self._guard.report()
        self._zap.warning.tell_rest()
        self._try_remote()

    def close(self) -> None:
        """Close everything, as soon as what was sent is delivered."""
        self._guard.close()
        self.socket.close()
        self._zap.socket.close(linger=0)
        self._context.term()

    def _try_remote(self) -> None:
        if self._remote is None or self._bound_endpoint:
            return
        self._guard.take_events()  # binding waits for libzmq's thread, which may wait for room among them
        try:
            self._bind_remote(self._remote)
        except ConfigError as error:
            log.debug("%s; trying again", error.message)

    def _bind_remote(self, remote: RemoteAccess) -> None:
        socket = self.socket
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, remote.keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, remote.keys.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, b"core")
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, DEAD_AFTER_MS)
        socket.setsockopt(zmq.IPV6, int("[" in remote.endpoint))
        try:
            socket.bind(remote.endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(
                f"cannot listen on {remote.endpoint}: {zmq.strerror(error.errno or 0)} (--core-endpoint)"
            ) from error
        self._bound_endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        log.info("listening on %s for those with a key in %s", remote.endpoint, remote.folder.clients_dir)


class _ZapHandler:
    """Says to libzmq which keys may connect (ZAP, RFC 27)."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """Nobody is allowed yet."""
        self.socket = context.socket(zmq.REP)
        self.socket.bind(_ZAP_ENDPOINT)
        self._allowed: AllowedClients | None = None
        self.warning = CountedWarning(log, "refused a client of another host")

    def allow(self, folder: CurveDir) -> None:
        """Let those in who have a key in this folder, as it is when they come, and nobody else."""
        self._allowed = AllowedClients(folder)

    def answer(self) -> None:
        """Answer everybody who waits at the door."""
        while True:
            try:
                version, request_id, _, address, _, mechanism, *credentials = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            name = None
            if self._allowed is not None and version == _ZAP_VERSION and mechanism == b"CURVE" and credentials:
                name = self._allowed.name_of(credentials[0])
            if name is None:
                self.warning.add(f"{address.decode(errors='replace')} has no key that is allowed")
                answer = [b"400", b"not allowed", b"", b""]
            else:
                answer = [b"200", b"", name.encode(), b""]
            self.socket.send_multipart([_ZAP_VERSION, request_id, *answer])
