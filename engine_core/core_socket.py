"""The core's ROUTER with all that stands at its door: who may connect, how many, and how often somebody was refused.

Clients on this machine come by ipc, where the run dir's mode says who they may be. Clients of other hosts come by tcp,
where there is one (`--core-endpoint`): CURVE encrypts and shows their keys, and this is the ZAP handler that knows the
allowed ones. Options are copied when a socket is bound, so those for tcp do not touch ipc.
Owned by the I/O thread. Next: `connection_guard.py`, `ipc/curve.py`.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from engine_core.connection_guard import ConnectionGuard
from ipc.config import EndpointConfig
from ipc.counted_warning import CountedWarning
from ipc.curve import CurveDir, KeyPair
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
    allowed: dict[bytes, str]
    """Names by public key."""
    may_wait: bool = False
    """True where another core may have the endpoint until it ends, whose place this one takes."""

    @classmethod
    def of(cls, config: EndpointConfig, *, may_wait: bool = False) -> "RemoteAccess | None":
        """Read the keys; None where there is no such endpoint.

        Raises:
            ConfigError: a key is missing, damaged or readable for others.
        """
        if config.core_endpoint is None or config.curve_dir is None:
            return None
        folder = CurveDir(config.curve_dir)
        return cls(config.core_endpoint, folder.server_keys(), folder.allowed_clients(), may_wait)


class CoreSocket:
    """A bound ROUTER; public methods are for the thread that owns it."""

    def __init__(self, path: Path, num_descriptors: int, remote: RemoteAccess | None = None) -> None:
        """Bind to `path`, and to the endpoint of `remote`.

        Raises:
            ConfigError: libzmq is too old, or the tcp endpoint cannot be bound.
        """
        if zmq.zmq_version_info() < MIN_LIBZMQ_VERSION:
            raise ConfigError(f"libzmq {zmq.zmq_version()} is too old: 4.3.5 or later is needed (pyzmq 27)")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = make_core_socket(self._context)
        self._guard = ConnectionGuard(self._context, self.socket, num_descriptors)
        self._zap: _ZapHandler | None = None
        self.socket.bind(f"ipc://{path}")
        self._unbound = remote
        """What is still to be bound."""
        if remote is not None:
            self._zap = _ZapHandler(self._context, remote.allowed)
            self.bind_remote()

    @property
    def num_ended(self) -> int:
        """Connections that are over."""
        return self._guard.num_ended

    @property
    def stats(self) -> dict[str, int]:
        """Connections of now, those that were more than allowed, and those without an allowed key."""
        num_refused = 0 if self._zap is None else self._zap.num_refused
        return {
            "num_connections": self._guard.num_open,
            "num_cut_connections": self._guard.num_cut,
            "num_refused_keys": num_refused,
        }

    def register(self, poller: zmq.Poller) -> None:
        """Let a poller watch everything; its events are for `on_events`."""
        poller.register(self.socket, zmq.POLLIN)
        poller.register(self._guard.events, zmq.POLLIN)
        if self._zap is not None:
            poller.register(self._zap.socket, zmq.POLLIN)

    def on_events(self, sources: list[object]) -> None:
        """Take in what happened at the door; messages are not looked at."""
        if self._guard.events in sources:
            self._guard.take_events()
        if self._zap is not None and self._zap.socket in sources:
            self._zap.answer()

    def bind_remote(self) -> None:
        """Bind the tcp endpoint, if there is one that is not bound yet; to be called again and again where it may wait.

        Raises:
            ConfigError: it cannot be bound.
        """
        if self._unbound is not None and self._try_bind(self._unbound):
            self._unbound = None

    def report(self) -> None:
        """Log what has not been logged one by one; to be called now and then."""
        self._guard.report()
        if self._zap is not None:
            self._zap.warning.tell_rest()

    def close(self) -> None:
        """Close everything, as soon as what was sent is delivered."""
        self._guard.close()
        self.socket.close()
        if self._zap is not None:
            self._zap.socket.close(linger=0)
        self._context.term()

    def _try_bind(self, remote: RemoteAccess) -> bool:
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
            if remote.may_wait and error.errno == zmq.EADDRINUSE:
                return False
            raise ConfigError(
                f"cannot listen on {remote.endpoint}: {zmq.strerror(error.errno or 0)} (--core-endpoint)"
            ) from error
        log.info("listening on %s for %s", remote.endpoint, ", ".join(remote.allowed.values()))
        return True


class _ZapHandler:
    """Says to libzmq which keys may connect (ZAP, RFC 27)."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], allowed: dict[bytes, str]) -> None:
        self.socket = context.socket(zmq.REP)
        self.socket.bind(_ZAP_ENDPOINT)
        self._allowed = {_raw_key(key): name.encode() for key, name in allowed.items()}
        self.warning = CountedWarning(log, "refused a client of another host")

    @property
    def num_refused(self) -> int:
        """Connections without an allowed key."""
        return self.warning.num

    def answer(self) -> None:
        """Answer everybody who waits at the door."""
        while True:
            try:
                version, request_id, _, address, _, mechanism, *credentials = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            name = self._allowed.get(credentials[0]) if mechanism == b"CURVE" and credentials else None
            if name is None or version != _ZAP_VERSION:
                self.warning.add(f"{address.decode(errors='replace')} has no key that is allowed")
                answer = [b"400", b"not allowed", b"", b""]
            else:
                answer = [b"200", b"", name, b""]
            self.socket.send_multipart([_ZAP_VERSION, request_id, *answer])


def _raw_key(key: bytes) -> bytes:
    """32 bytes of the 40 characters."""
    return bytes(z85.decode(key))
