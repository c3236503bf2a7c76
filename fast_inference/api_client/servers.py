"""Which server a command means: the one of a URL, of a run dir, or the one that runs on this machine.

Where nothing is said, the server on the default port comes first, then the only one of this user that runs, wherever
it listens; last, whatever answers on the default port. Invariant: where none is found, the error says what to do.
"""

import argparse
import json
import os
import socket
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_inference.flags import environment_name
from ipc.config import LauncherConfig
from ipc.errors import ConfigError

if TYPE_CHECKING:
    from fast_inference.api_client.connection import ApiClient
    from ipc.endpoints import RunDir

DEFAULT_PORT: int = LauncherConfig.model_fields["port"].default
API_KEY_VARIABLE = environment_name("api_key")
RUN_DIR_VARIABLE = environment_name("run_dir")
PORT_VARIABLE = environment_name("port")
_PROBE_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class FoundServer:
    """A server, as far as it is known without asking it."""

    url: str
    """Seen from this machine."""
    run_dir: "RunDir | None"
    """None where only the URL is known."""


def add_server_flags(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add `--url` and `--run-dir`, of which one may be given."""
    server = parser.add_mutually_exclusive_group()
    server.add_argument(
        "--url", help=f"base URL of the server (default: the one that runs here, else http://127.0.0.1:{DEFAULT_PORT})"
    )
    server.add_argument(
        "--run-dir",
        type=Path,
        metavar="DIR",
        help=f"or the run dir of a server on this machine (default: none; env {RUN_DIR_VARIABLE})",
    )


def add_key_flag(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add `--api-key`."""
    parser.add_argument(
        "--api-key", metavar="KEY", help=f"key that requests carry (default: none; env {API_KEY_VARIABLE})"
    )


def client_of(namespace: argparse.Namespace) -> "ApiClient":
    """A client for the flags of `add_server_flags` and `add_key_flag`.

    Raises:
        ConfigError: no server is found.
    """
    from fast_inference.api_client.connection import ApiClient

    key = namespace.api_key or first_key(os.environ.get(API_KEY_VARIABLE, ""))
    return ApiClient(find_server(namespace.url, namespace.run_dir).url, key)


def first_key(text: str) -> str | None:
    """The first key of the variable that also gives a server its keys; a digest is no key.

    Raises:
        ConfigError: it is a list that cannot be read.
    """
    try:
        keys = [str(key) for key in json.loads(text)] if text.lstrip().startswith("[") else text.split(",")
    except ValueError as error:
        raise ConfigError(f"{API_KEY_VARIABLE}: neither keys with commas nor a list in JSON") from error
    return next((key.strip() for key in keys if key.strip() and not key.strip().startswith("sha256:")), None)


def find_server(url: str | None, run_dir: Path | None) -> FoundServer:
    """The server that is meant; only where nothing is said it is looked whether it runs.

    The environment counts as it does for `serve`, so that both mean the same run dir and port.

    Raises:
        ConfigError: none or several run, or the run dir has none.
    """
    from ipc.endpoints import RunDir

    if url is not None:
        return FoundServer(url, None)
    if run_dir is None and (named := os.environ.get(RUN_DIR_VARIABLE)):
        run_dir = Path(named)
    if run_dir is not None:
        return _server_of(RunDir(run_dir))
    named_port = os.environ.get(PORT_VARIABLE, "")
    port = int(named_port) if named_port.isdecimal() else DEFAULT_PORT
    default = RunDir.default(port)
    if default.has_launcher():
        return _server_of(default)
    running = _running_run_dirs(default.path.parent)
    if len(running) == 1:
        return _server_of(running[0])
    if running:
        urls = ", ".join(_server_of(found).url for found in running)
        raise ConfigError(f"several servers run: {urls} (say which with --url or --run-dir)")
    if not _answers(port):
        raise ConfigError(
            f"no server runs here, and nothing listens on port {port}: start one with `fast-inference serve`, "
            "or name one with --url or --run-dir"
        )
    return FoundServer(f"http://127.0.0.1:{port}", None)


def read_status(run_dir: "RunDir") -> dict[str, Any]:
    """What the launcher of this run dir says; raises `ConfigError` where none has ever said anything we understand."""
    try:
        status = json.loads(run_dir.status_file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"no server runs on {run_dir.path}") from error
    if not isinstance(status, dict):
        raise not_understood(run_dir)
    return status


def not_understood(run_dir: "RunDir") -> ConfigError:
    """The error where `status.json` is not what we would write."""
    return ConfigError(
        f"{run_dir.status_file} was written by another version of fast-inference: use the command of that version, "
        "name the server with --url, or start it again"
    )


def _server_of(run_dir: "RunDir") -> FoundServer:
    if not run_dir.has_launcher():
        raise ConfigError(f"no server runs on {run_dir.path}: start one with `fast-inference serve`")
    url = read_status(run_dir).get("url")
    if not isinstance(url, str):
        raise not_understood(run_dir)
    return FoundServer(_local(url), run_dir)


def _local(url: str) -> str:
    """A URL with a wildcard address as this machine reaches it."""
    from fast_inference.listener import local_url_of

    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "tcp":  # a core without frontends
        return url
    return local_url_of(parts.hostname or "", parts.port or 80)


def _running_run_dirs(parent: Path) -> "list[RunDir]":
    from ipc.endpoints import RunDir

    return [run_dir for path in sorted(parent.glob("*/")) if (run_dir := RunDir(path)).has_launcher()]


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), _PROBE_TIMEOUT_S).close()
    except OSError:
        return False
    return True
