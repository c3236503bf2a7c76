"""Where the processes meet: the run dir with its files and locks, and the options of both ends of the socket.

Invariant: whoever binds `core.sock` holds the lock `core`, because libzmq lets a second process take over a bound
ipc path without a word (tried with libzmq 4.3.5).
"""

import fcntl
import os
import tempfile
from pathlib import Path

import zmq

from ipc.codec import MAX_FRAME_BYTES
from ipc.errors import ConfigError

MAX_SOCKET_PATH_BYTES = 107
SEND_QUEUE_MESSAGES = 1000
RECEIVE_QUEUE_MESSAGES = 1000


class RunDir:
    """The folder of one running server."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @classmethod
    def default(cls, port: int) -> "RunDir":
        """`$XDG_RUNTIME_DIR/fast-inference/PORT`, or a folder of this user under the temp dir."""
        runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
        if runtime_dir and Path(runtime_dir).is_dir():
            return cls(Path(runtime_dir) / "fast-inference" / str(port))
        return cls(Path(tempfile.gettempdir()) / f"fast-inference-{os.getuid()}" / str(port))

    @property
    def core_socket(self) -> Path:
        """The core's ROUTER."""
        return self.path / "core.sock"

    @property
    def config_file(self) -> Path:
        """The settings that the launcher resolved."""
        return self.path / "config.json"

    @property
    def status_file(self) -> Path:
        """What runs, rewritten by the launcher on each change."""
        return self.path / "status.json"

    def create(self) -> None:
        """Make the folder with mode 0700.

        Raises:
            ConfigError: it cannot be made, belongs to somebody else, or its path is too long for a socket.
        """
        if len(os.fsencode(self.core_socket)) > MAX_SOCKET_PATH_BYTES:
            raise ConfigError(f"run dir path too long for a socket: {self.path} (use --run-dir)")
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_uid != os.getuid():
                raise ConfigError(f"run dir {self.path} belongs to another user (use --run-dir)")
            self.path.chmod(0o700)
        except OSError as error:
            raise ConfigError(f"cannot make run dir {self.path}: {error.strerror}") from error

    def lock(self, name: str) -> int:
        """Take the lock `name` for the life of this process; returns the descriptor that holds it.

        Raises:
            ConfigError: another process holds it.
        """
        path = self.path / f"{name}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise ConfigError(f"another {name} runs on {self.path}") from error
        return descriptor


def bind_core_socket(context: zmq.Context[zmq.Socket[bytes]], path: Path) -> zmq.Socket[bytes]:
    """The core's end: a ROUTER that reports unroutable messages and never queues without bound."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    _set_common_options(socket)
    socket.setsockopt(zmq.LINGER, 200)
    socket.bind(f"ipc://{path}")
    return socket


def connect_to_core(context: zmq.Context[zmq.Socket[bytes]], path: Path) -> zmq.Socket[bytes]:
    """A client's end: a DEALER with a random identity that refuses to send while the core is away."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, b"c" + os.urandom(15))
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, 20)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
    _set_common_options(socket)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(f"ipc://{path}")
    return socket


def _set_common_options(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_MESSAGES)
    socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE_MESSAGES)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
