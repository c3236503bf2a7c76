"""`fast-inference reload [MODEL]`: replaces the engine core of a running server, and waits for the outcome.

It looks for the model where `serve` does, leaves a request in the run dir, sends SIGHUP to the launcher and follows
`status.json`. Invariant: exit status 0 means that the new core serves and the old one is gone; where it fails, one line
says why, and the old core serves on.
Next: `core_reload.py`, the launcher's side.
"""

import argparse
import os
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_inference.api_client.servers import (
    DEFAULT_PORT,
    PORT_VARIABLE,
    RUN_DIR_VARIABLE,
    find_server,
    not_understood,
    read_status,
)
from fast_inference.flags import FlagParser
from ipc.config import ModelConfig, load_section
from ipc.endpoint_config import EndpointConfig
from ipc.errors import ConfigError
from ipc.process import start_ticks

if TYPE_CHECKING:
    from ipc.endpoints import RunDir

_EXAMPLES = """\
examples:
  fast-inference reload                         the same model from its files
  fast-inference reload models/next --port 9000
"""
_POLL_S = 0.1
_STAGES = {
    "loading": "the new engine core loads, the old one serves",
    "retiring": "the new engine core serves, the old one finishes what it runs",
}
_UNDER_WAY = tuple(_STAGES)


def add_reload(commands: "argparse._SubParsersAction[FlagParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "reload",
        help="replace the engine core of a running server",
        description="Load MODEL, or the model of the server anew, in a second engine core, and let it take the place "
        "of the first: requests that run are finished, others go to the new core, no connection is dropped. Both "
        "cores need their memory at the same time. Several cores are replaced one after the other.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="another model, named as for serve")
    server = parser.add_mutually_exclusive_group()
    server.add_argument(
        "--run-dir",
        type=Path,
        metavar="DIR",
        help=f"run dir of the server (default: that of the server that runs here; env {RUN_DIR_VARIABLE})",
    )
    server.add_argument(
        "--port", type=int, metavar="N", help=f"or its port (default: {DEFAULT_PORT}; env {PORT_VARIABLE})"
    )

    def run(namespace: argparse.Namespace) -> int:
        from ipc.endpoints import RunDir

        named = namespace.run_dir
        run_dir = RunDir.default(namespace.port) if namespace.port is not None else find_server(None, named).run_dir
        if run_dir is None:
            raise ConfigError("no server of this user runs here (name its --run-dir)")
        print(reload(run_dir, namespace.model))
        return 0

    parser.set_defaults(run=run)


def reload(run_dir: "RunDir", model: str | None) -> str:
    """Replace the core of the server on this run dir; returns a line for people.

    Raises:
        ConfigError: no server runs there, there is no such model, or the new core did not become ready.
    """
    from fast_inference.core_reload import ReloadRequest
    from fast_inference.model_store import resolve_model
    from fast_inference.progress import StartProgress

    before = _status_of_running(run_dir)
    if load_section(run_dir.config_file, EndpointConfig).connect:
        raise ConfigError("the cores of this server run on other hosts: reload them there")
    lock = run_dir.lock_reload()
    try:
        folder = None
        if model is not None:
            with StartProgress() as progress:
                folder = resolve_model(model, progress, rope=_rope_of(run_dir, model))
        before = _status_of_running(run_dir)
        if before["state"] == "starting":
            raise ConfigError("the server has not been ready yet")
        if before["reload"] is not None and before["reload"]["state"] in _UNDER_WAY:
            raise ConfigError("another reload is under way")
        request = ReloadRequest(uuid.uuid4().hex, model, folder)
        launcher_pid = before["launcher"]["pid"]
        ticks = start_ticks(launcher_pid)
        request.write(run_dir)
        os.kill(launcher_pid, signal.SIGHUP)
        with StartProgress() as progress:
            after = _wait(run_dir, request.id, launcher_pid, ticks, progress)
    except OSError as error:
        raise ConfigError(f"cannot reach the server on {run_dir.path}: {error.strerror}") from error
    finally:
        os.close(lock)
    served = f"model {model}" if model is not None else "the same model"
    new, old = (", ".join(str(core["pid"]) for core in _cores_of(status)) for status in (after, before))
    return f"reloaded: {served}, engine core{'s' if ',' in new else ''} {new} in place of {old}"


def _cores_of(status: dict[str, Any]) -> list[dict[str, Any]]:
    """All cores that a status names."""
    return status.get("cores") or [status["core"]]


def _rope_of(run_dir: "RunDir", model: str) -> str | None:
    """The server's `--rope`, which counts for every checkpoint that it loads."""
    return load_section(run_dir.config_file, ModelConfig).rope if model.lower().endswith((".pt", ".pth")) else None


def _wait(
    run_dir: "RunDir", request_id: str, launcher_pid: int, ticks: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """The status after the reload; raises `ConfigError` with the reason if it failed."""
    while True:
        is_launcher_gone = start_ticks(launcher_pid) != ticks
        status = read_status(run_dir)
        outcome = status.get("reload") or {}
        if outcome.get("id") == request_id and (stage := _STAGES.get(outcome["state"])):
            tell(stage)
        if outcome.get("id") == request_id and outcome["state"] not in _UNDER_WAY:
            if outcome["state"] != "done":
                raise ConfigError(outcome["reason"])
            if status["state"] == "ready":  # else the new one died at once, and is started again
                return status
        if is_launcher_gone or status["state"] == "stopped":
            raise ConfigError("the server ended during the reload")
        time.sleep(_POLL_S)


def _status_of_running(run_dir: "RunDir") -> dict[str, Any]:
    """What the server says of itself; raises `ConfigError` where none runs."""
    if not run_dir.has_launcher():
        raise ConfigError(f"no server runs on {run_dir.path}")
    status = read_status(run_dir)
    if not {"state", "launcher", "core", "reload"} <= status.keys():
        raise not_understood(run_dir)
    return status
