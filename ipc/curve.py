"""The keys of the core's tcp endpoint: a folder in the format of zmq's certificates, which `fast-inference keys` makes.

    DIR/server.key               the core's public key, which every client needs
    DIR/server.key_secret        for the core alone
    DIR/servers/HOST.key         the public key of the cores on this host, where that is not the one in server.key
    DIR/clients/NAME.key         the public keys of those who may connect
    DIR/clients/NAME.key_secret  for that client alone

A client on another host needs a folder with `server.key` and its own secret key. A core sees at once which clients come
and go (`engine_core/allowed_clients.py`). Invariant: whoever has no key of the list is refused before a byte of it is
read (CURVE, with `engine_core/core_socket.py` as ZAP handler).
"""

import os
import re
import shutil
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from ipc.errors import ConfigError

_LINE = re.compile(rb'^\s*(public|secret)-key\s*=\s*"([0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40})"\s*$', re.MULTILINE)
_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MAX_FILE_BYTES = 65536


@dataclass(frozen=True, slots=True)
class KeyPair:
    """In Z85, as zmq takes them."""

    public: bytes
    secret: bytes


class CurveDir:
    """A folder of keys."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def clients_dir(self) -> Path:
        """Holds the keys of clients."""
        return self.path / "clients"

    def server_keys(self) -> KeyPair:
        """The core's own keys; raises `ConfigError` where they are missing, damaged, or readable for others."""
        return _key_pair(self.path / "server.key_secret")

    def server_public_key(self, host: str = "") -> bytes:
        """What a client needs of the core, or of those on a host; raises `ConfigError`."""
        of_host = self.path / "servers" / f"{host}.key"
        return _key(of_host if host and of_host.exists() else self.path / "server.key", b"public")

    def client_keys(self, name: str) -> KeyPair:
        """A client's own keys; raises `ConfigError`."""
        return _key_pair(self.clients_dir / f"{_checked(name)}.key_secret")

    def client_public_key(self, name: str) -> bytes:
        """The key by which a client is let in; raises `ConfigError`."""
        return _key(self.clients_dir / f"{_checked(name)}.key", b"public")

    def allowed_clients(self) -> dict[bytes, str]:
        """Names of those who may connect, by public key; raises `ConfigError` where there are none."""
        names = sorted(path.stem for path in self.clients_dir.glob("*.key") if not path.name.startswith("."))
        allowed = {self.client_public_key(name): name for name in names}
        if not allowed:
            raise ConfigError(f"{self.clients_dir} has no *.key of a client that may connect")
        return allowed

    def make(self, client: str) -> list[Path]:
        """Make the core's keys and those of a client, as far as they are missing; returns the new files.

        Raises:
            ConfigError: the name is none, or a file cannot be written.
        """
        return self._make((self.path, "server"), (self.clients_dir, _checked(client)))

    def make_server(self) -> str:
        """Make the core's keys if they are missing; returns the public one. Raises `ConfigError`."""
        self._make((self.path, "server"))
        return self.server_keys().public.decode()

    def make_client(self, name: str) -> str:
        """The same for a client."""
        self._make((self.clients_dir, _checked(name)))
        return self.client_keys(name).public.decode()

    def set_clients(self, keys: Mapping[str, str]) -> None:
        """Let these clients in, by name and public key, and nobody else; a running core sees it.

        Raises:
            ConfigError: a name or a key is none, or a file cannot be written.
        """
        texts = {f"{_checked(name)}.key": _public_text(_checked_key(name, key)) for name, key in keys.items()}
        try:
            self.clients_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            for file_name, text in texts.items():
                temporary = self.clients_dir / f".{file_name}"
                with open(temporary, "w", opener=_open_private) as file:
                    file.write(text)
                os.replace(temporary, self.clients_dir / file_name)
            for path in self.clients_dir.glob("*.key"):
                if path.name not in texts:
                    path.unlink()
        except OSError as error:
            raise ConfigError(f"cannot write keys to {self.clients_dir}: {error.strerror}") from error

    def remove(self) -> None:
        """Remove the folder with all keys, where there is one."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _make(self, *wanted: tuple[Path, str]) -> list[Path]:
        made = []
        try:
            for folder, name in wanted:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not (folder / f"{name}.key").exists():
                    made += _write_pair(folder, name)
        except OSError as error:
            raise ConfigError(f"cannot make keys in {self.path}: {error.strerror}") from error
        return made


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name of a client: letters, digits, '.', '_' and '-' only")
    return name


def _checked_key(name: str, key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ConfigError(f"the public key of {name} is damaged")
    return key


def _public_text(key: str) -> str:
    return f'curve\n    public-key = "{key}"\n'


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_pair(folder: Path, name: str) -> list[Path]:
    public, secret = zmq.curve_keypair()
    public_line = _public_text(public.decode())
    texts = {f"{name}.key_secret": f'{public_line}    secret-key = "{secret.decode()}"\n', f"{name}.key": public_line}
    for file_name, text in texts.items():
        descriptor = os.open(folder / file_name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(text)
    return [folder / file_name for file_name in texts]


def _key_pair(path: Path) -> KeyPair:
    pair = KeyPair(_key(path, b"public"), _key(path, b"secret"))
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"others may read {path} (chmod 600)")
    if zmq.curve_public(pair.secret) != pair.public:
        raise ConfigError(f"the two keys in {path} do not belong together")
    return pair


def _key(path: Path, kind: bytes) -> bytes:
    try:
        with path.open("rb") as file:
            found: dict[bytes, bytes] = dict(_LINE.findall(file.read(_MAX_FILE_BYTES)))
    except OSError as error:
        raise ConfigError(
            f"cannot read the key {path}: {error.strerror} (`fast-inference keys` makes it, on the host of the cores)"
        ) from error
    if kind not in found:
        raise ConfigError(f"{path} has no {kind.decode()} key")
    try:
        z85.decode(found[kind])
    except struct.error as error:  # 40 right characters, but more than 32 bytes can say
        raise ConfigError(f"the {kind.decode()} key in {path} is damaged") from error
    return found[kind]
