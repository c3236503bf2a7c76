"""Where the processes meet: the run dir with its files and locks, and the options of both ends of the socket.

A core runs in one of two slots, so that a second one can load while the first serves; `core.sock` is a link to the
socket of the slot that clients are to use.
Invariant: whoever binds the socket of a slot holds the slot's lock, because libzmq lets a second process take over a
bound ipc path without a word (tried with libzmq 4.3.5).
"""

import fcntl
import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import zmq

from ipc.codec import MAX_CLIENT_FRAME_BYTES, MAX_FRAME_BYTES
from ipc.curve import CurveDir
from ipc.errors import ConfigError

MAX_SOCKET_PATH_BYTES = 107
SEND_QUEUE_MESSAGES = 1000
RECEIVE_QUEUE_MESSAGES = 1000
CORE_SLOTS = (0, 1)
_LOCK_RETRY_S = 0.02
HEARTBEAT_MS = 5_000
"""Between hosts, where a connection can be dead without anybody having ended it."""
DEAD_AFTER_MS = 15_000
HANDSHAKE_MS = 2_000
"""A peer that does not introduce itself to libzmq within this time is disconnected."""


class RunDir:
    """The folder of one running server: the names of all its files, and who may use it.

    A folder that we made has a marker file; any other one must be empty, so that no file of the user is taken for ours.
    """

    def __init__(self, path: Path, *, is_default: bool = False) -> None:
        self.path = path.absolute()
        self._is_default = is_default
        self._is_new = False

    @classmethod
    def default(cls, port: int) -> "RunDir":
        """`$XDG_RUNTIME_DIR/fast-inference/PORT`, or a folder of this user under the temp dir."""
        runtime_dir = os.environ.get("XDG_RUNTIME_DIR")
        if runtime_dir and Path(runtime_dir).is_dir():
            return cls(Path(runtime_dir) / "fast-inference" / str(port), is_default=True)
        return cls(Path(tempfile.gettempdir()) / f"fast-inference-{os.getuid()}" / str(port), is_default=True)

    # --- names ---

    @property
    def core_socket(self) -> Path:
        """Where clients find the core: a link to the socket of a slot."""
        return self.path / "core.sock"

    def slot_socket(self, slot: int) -> Path:
        """The ROUTER of the core in this slot."""
        return self.path / f"core-{slot}.sock"

    def slot_lock_file(self, slot: int) -> Path:
        """Held by the core in this slot."""
        return self.path / f"core-{slot}.lock"

    def slot_journal_file(self, slot: int) -> Path:
        """What the core in this slot is working on, for the core after it."""
        return self.path / f"core-{slot}.journal"

    @property
    def journal_count_file(self) -> Path:
        """Has a byte for each journal that one of several cores has begun."""
        return self.path / "journals"

    @property
    def cores_file(self) -> Path:
        """Where the cores are: `ipc/core_directory.py`."""
        return self.path / "cores.json"

    @property
    def fleet_file(self) -> Path:
        """How the cores of a Ray cluster are, for the launcher."""
        return self.path / "fleet.json"

    @property
    def ray_keys_dir(self) -> Path:
        """The keys with which this server connects to them."""
        return self.path / "ray-keys"

    @property
    def cores_dir(self) -> Path:
        """Holds a folder for each core but the first."""
        return self.path / "cores"

    def of_core(self, index: int) -> "RunDir":
        """Where one of several cores has its files: the first one here, another in a folder of its own inside."""
        return self if index == 0 else RunDir(self.cores_dir / str(index))

    @property
    def core_error_file(self) -> Path:
        """Why one of several cores could not start, in one line."""
        return self.path / "core.error"

    @property
    def config_file(self) -> Path:
        """The settings that the launcher resolved."""
        return self.path / "config.json"

    @property
    def standby_config_file(self) -> Path:
        """The same for a core that is to take the place of the one that runs."""
        return self.path / "config-standby.json"

    @property
    def standby_error_file(self) -> Path:
        """Why that core could not start, in one line."""
        return self.path / "standby.error"

    @property
    def reload_file(self) -> Path:
        """What `fast-inference reload` asks of the launcher."""
        return self.path / "reload.json"

    @property
    def status_file(self) -> Path:
        """What runs, rewritten by the launcher on each change; the only file that outlives a server."""
        return self.path / "status.json"

    @property
    def connections_file(self) -> Path:
        """How many connections each frontend has."""
        return self.path / "connections"

    @property
    def temporary_state_dir(self) -> Path:
        """Files and batches of a server that chose its port itself, so that nobody would find them again."""
        return self.path / "temporary-state"

    @property
    def fake_tokenizer_dir(self) -> Path:
        """The tokenizer of the fake model."""
        return self.path / "fake-tokenizer"

    @property
    def marker_file(self) -> Path:
        """An empty file that says that the folder is ours."""
        return self.path / ".fast-inference"

    @property
    def launcher_lock_file(self) -> Path:
        """Held by the launcher."""
        return self.path / "launcher.lock"

    @property
    def reload_lock_file(self) -> Path:
        """Held by `fast-inference reload`."""
        return self.path / "reload.lock"

    # --- life ---

    def create(self) -> None:
        """Make the folder with mode 0700, or take one that is there as it is.

        Raises:
            ConfigError: it cannot be made, its path is too long for a socket, others may write to it, or it holds files
                that are not of an earlier server.
        """
        if len(os.fsencode(self.slot_socket(0))) > MAX_SOCKET_PATH_BYTES:
            raise ConfigError(f"run dir path too long for a socket: {self.path} (use --run-dir)")
        try:
            if self._is_default:
                _make_private_folder(self.path.parent)  # its name can be foreseen, and so by others
            else:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._is_new = _make_private_folder(self.path)
            if not self._is_default and not self.marker_file.exists() and any(self.path.iterdir()):
                raise ConfigError(f"run dir {self.path} holds files that are not of an earlier server (use another)")
            self.marker_file.touch(mode=0o600)
        except OSError as error:
            raise ConfigError(f"cannot make run dir {self.path}: {error.strerror} (use another --run-dir)") from error

    def lock_core(self, slot: int, wait_s: float = 0.0) -> int:
        """Take the lock of a slot for the life of this process; returns the descriptor that holds it.

        Raises:
            ConfigError: another core still holds it after the time, or its file cannot be made.
        """
        return self._lock(self.slot_lock_file(slot), "core", wait_s)

    def lock_reload(self) -> int:
        """The same for the one `fast-inference reload` that may wait for an answer."""
        return self._lock(self.reload_lock_file, "reload", 0.0)

    def lock_launcher(self) -> int:
        """The same for the one launcher of this run dir."""
        return self._lock(self.launcher_lock_file, "launcher", 0.0)

    def has_launcher(self) -> bool:
        """True if a launcher runs on this run dir."""
        return _is_locked(self.launcher_lock_file)

    def _lock(self, path: Path, name: str, wait_s: float) -> int:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot make {path}: {error.strerror}") from error
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    os.close(descriptor)
                    hint = " (stop it, or use another --run-dir)" if name == "launcher" else ""
                    raise ConfigError(f"another {name} runs on {self.path}{hint}") from error
                time.sleep(_LOCK_RETRY_S)
            else:
                return descriptor

    def publish_core(self, slot: int) -> None:
        """Have clients find the core of this slot from now on; replaces whatever is there in one step.

        Raises:
            OSError: the link cannot be made.
        """
        temporary = self.path / f"core-{os.getpid()}.link"  # a core and its launcher may do this at once
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self.slot_socket(slot).name)
        os.replace(temporary, self.core_socket)

    def forget_crashes(self) -> None:
        """Remove what cores that died have left for their successors."""
        for path in (*self.journal_files(), self.journal_count_file):
            with suppress(OSError):
                path.unlink()

    def journal_files(self) -> list[Path]:
        """The journals of all cores of this server, as far as they are there; for the first core's run dir."""
        return [*self.path.glob("core-[01].journal"), *self.cores_dir.glob("*/core-[01].journal")]

    def forget_reload(self) -> None:
        """Remove what a reload leaves, or what is left of one that was cut off."""
        for path in (self.reload_file, self.standby_config_file, self.standby_error_file):
            with suppress(OSError):
                path.unlink()

    def remove_files(self) -> None:
        """Remove what a server leaves except `status.json`; without one, the folder too if `create` made it.

        Only the holder of the launcher's lock may call this; files that are not of the server stay.
        """
        self.forget_reload()
        mine = [self.config_file, self.core_socket, self.connections_file, self.status_file.with_suffix(".tmp")]
        mine += [self.reload_file.with_suffix(".tmp"), self.reload_lock_file, *self.path.glob("core-*.link")]
        mine += [self.cores_file, self.cores_file.with_suffix(".tmp"), self.config_file.with_suffix(".tmp")]
        mine.append(self.standby_config_file.with_suffix(".tmp"))
        mine += [self.journal_count_file, self.fleet_file, self.fleet_file.with_suffix(".tmp"), self.core_error_file]
        for slot in CORE_SLOTS:
            journal = self.slot_journal_file(slot)
            mine += [self.slot_socket(slot), self.slot_lock_file(slot), journal, journal.with_suffix(".tmp")]
        has_run = self.status_file.exists()
        if not has_run:
            mine.append(self.marker_file)
        for folder in (self.fake_tokenizer_dir, self.temporary_state_dir, self.cores_dir, self.ray_keys_dir):
            shutil.rmtree(folder, ignore_errors=True)
        for path in (*mine, self.launcher_lock_file):
            with suppress(OSError):  # whoever took the folder away or wants to keep it does not stop the end
                path.unlink()
        if self._is_new and not has_run:
            with suppress(OSError):
                self.path.rmdir()


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _make_private_folder(path: Path) -> bool:
    """Make a folder that only its owner can enter; True if it was not there.

    Raises:
        ConfigError: what is there is a link or no folder, belongs to another user, or others may write to it.
        OSError: it cannot be made.
    """
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        found = path.lstat()
    else:
        return True
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{path} is no folder (use another --run-dir)")
    if found.st_uid != os.getuid():
        raise ConfigError(f"{path} belongs to another user (use another --run-dir)")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"others may write to {path} (chmod go-w, or use another --run-dir)")
    return False


@dataclass(frozen=True, slots=True)
class RemoteCore:
    """A core on another host, or one that is to be spoken to as if it were."""

    endpoint: str
    """tcp://ADDRESS:PORT, its `--core-endpoint`."""
    curve_dir: Path
    """Has its public key and this client's own keys (`ipc/curve.py`)."""
    client_name: str = "client"
    """Whose keys."""
    server_key: str = ""
    """Its public key in Z85, where not that of `server.key`."""


CoreAddress = Path | RemoteCore
"""Where a core is found: its ipc socket, or its tcp endpoint."""


def make_core_socket(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """The core's end, not bound yet: a ROUTER that reports unroutable messages and never queues without bound."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    _set_common_options(socket, MAX_CLIENT_FRAME_BYTES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.LINGER, 200)
    return socket


def connect_to_core(context: zmq.Context[zmq.Socket[bytes]], address: CoreAddress) -> zmq.Socket[bytes]:
    """A client's end: a DEALER with a random identity that refuses to send while the core is away.

    Raises:
        ConfigError: the keys for a core on another host are missing or damaged, or this is no address.
    """
    socket = context.socket(zmq.DEALER)
    try:
        _connect_to(socket, address)
    except (ConfigError, zmq.ZMQError) as error:
        socket.close(linger=0)  # one that stays open keeps its context waiting for ever
        if isinstance(error, ConfigError):
            raise
        endpoint = address.endpoint if isinstance(address, RemoteCore) else address
        raise ConfigError(f"cannot connect to the core at {endpoint}: {error}") from error
    return socket


def _connect_to(socket: zmq.Socket[bytes], address: CoreAddress) -> None:
    _set_new_identity(socket)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.RECONNECT_IVL, 20)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
    _set_common_options(socket, MAX_FRAME_BYTES)
    socket.setsockopt(zmq.LINGER, 0)
    if isinstance(address, RemoteCore):
        _set_curve_options(socket, address)
        socket.connect(address.endpoint)
    else:
        socket.connect(f"ipc://{address}")


def reconnect_to_core(socket: zmq.Socket[bytes], core: RemoteCore) -> None:
    """Let go of the connection and make a new one, with another identity.

    libzmq never connects again by itself where it was refused, and a core takes no second connection of one identity
    while it has not noticed the end of the first.
    """
    socket.disconnect(core.endpoint)
    _set_new_identity(socket)
    socket.connect(core.endpoint)


def _set_new_identity(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.IDENTITY, b"c" + os.urandom(15))


def _set_curve_options(socket: zmq.Socket[bytes], core: RemoteCore) -> None:
    folder = CurveDir(core.curve_dir)
    keys = folder.client_keys(core.client_name)
    server_key = core.server_key.encode() or folder.server_public_key()
    socket.setsockopt(zmq.CURVE_SERVERKEY, server_key)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, DEAD_AFTER_MS)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, HANDSHAKE_MS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.IPV6, int("[" in core.endpoint))


def _set_common_options(socket: zmq.Socket[bytes], max_frame_bytes: int) -> None:
    """A peer that sends a larger frame is disconnected before anything of it is read."""
    socket.setsockopt(zmq.SNDHWM, SEND_QUEUE_MESSAGES)
    socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE_MESSAGES)
    socket.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes)
