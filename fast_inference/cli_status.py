"""`fast-inference status`: what of a server runs and how busy it is; see `fast_inference/status_report/`.

Exit statuses: 0 it is ready, 1 no server runs (one line says where it was looked for), 2 wrong usage, 3 it runs but
serves nothing at the moment: it starts, restarts its core, or drains.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from fast_inference.api_client.servers import API_KEY_VARIABLE, add_key_flag, add_server_flags, find_server, first_key
from fast_inference.console import has_cursor, printable
from fast_inference.flags import FlagParser, positive_number
from ipc.errors import ConfigError

if TYPE_CHECKING:
    from fast_inference.api_client.connection import ApiClient
    from fast_inference.status_report.probes import Probe
    from fast_inference.status_report.report import StatusReport
    from ipc.endpoints import RunDir

EXIT_NOT_READY = 3
_HOME_AND_CLEAR = "\x1b[H\x1b[J"
_EXAMPLES = """\
examples:
  fast-inference status
  fast-inference status --watch
  fast-inference status --url https://llm.example.org --json | jq .load

exit status: 0 ready, 1 no server runs, 2 wrong usage, 3 it runs but is not ready (starting, restarting, draining)
"""


def add_status(commands: "argparse._SubParsersAction[FlagParser]") -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "status",
        usage="fast-inference status [flags]",
        help="show the processes and the load of a running server",
        description="Show what of a server runs: its processes with uptime, memory and restarts, its model, and how "
        "busy it is. With --url only what the server tells anybody.",
        epilog=_EXAMPLES,
    )
    add_server_flags(parser)
    add_key_flag(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, one object in a line (default: no)")
    parser.add_argument(
        "--watch",
        nargs="?",
        const=2.0,
        type=positive_number,
        metavar="SECONDS",
        help="look again after so many seconds, 2 where they are not given, until Ctrl-C (default: look once)",
    )
    parser.set_defaults(run=_run)


def _run(namespace: argparse.Namespace) -> int:
    from fast_inference.api_client.connection import ApiClient
    from fast_inference.status_report.probes import ApiProbe, CoreProbe
    from ipc.config import FrontendConfig, load_section

    logging.getLogger("ipc").addHandler(logging.NullHandler())  # what it logs of cores is in the report
    found = find_server(namespace.url, namespace.run_dir)
    if found.run_dir is not None:
        run_dir = found.run_dir
        names = load_section(run_dir.config_file, FrontendConfig).served_model_name
        core_probe = CoreProbe(run_dir, next(iter(names), ""))
        return _show(namespace, lambda: look_at_run_dir(run_dir, found.url, core_probe))
    key = namespace.api_key or first_key(os.environ.get(API_KEY_VARIABLE, ""))
    client = ApiClient(found.url, key)
    api_probe = ApiProbe(client)
    return _show(namespace, lambda: look_at_url(client, api_probe))


def look_at_run_dir(run_dir: "RunDir", url: str, probe: "Probe") -> "StatusReport":
    """One look at a server of this machine; raises `ConfigError` where none runs any more."""
    from fast_inference.api_client.servers import not_understood, read_status
    from fast_inference.status_report.processes import process_rows
    from fast_inference.status_report.report import StatusReport
    from ipc.core_directory import read_cores
    from ipc.endpoints import RemoteCore
    from ipc.errors import EngineUnavailableError

    if not run_dir.has_launcher():
        raise ConfigError(f"no server runs on {run_dir.path} any more")
    status = read_status(run_dir)
    local_cores = [name for name, address in read_cores(run_dir).items() if not isinstance(address, RemoteCore)]
    try:
        state, rows = str(status["state"]), process_rows(status, local_cores)
        last_exit = str(status["core"]["last_exit"])
        exits = {core["name"]: str(core["last_exit"]) for core in status.get("cores", ())}
    except (AttributeError, LookupError, TypeError) as error:
        raise not_understood(run_dir) from error
    report = StatusReport(url, state, str(run_dir.path), rows, last_core_exit=last_exit)
    try:
        look = probe.look()
    except EngineUnavailableError as error:
        return replace(report, detail=error.message)
    cores = [replace(core, last_exit=exits.get(core.name, "")) for core in look.cores]
    return replace(report, model=look.model, load=look.load, cores=cores)


def look_at_url(client: "ApiClient", probe: "Probe") -> "StatusReport":
    """One look at a server anywhere; raises `ConfigError` where none answers."""
    from fast_inference.api_client.connection import ApiError
    from fast_inference.status_report.report import READY, StatusReport

    try:
        state, detail = client.health()
        if state != READY:
            return StatusReport(client.url, state, detail=detail)
        look = probe.look()
    except ApiError as error:
        raise ConfigError(error.message) from error
    except (LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{client.url} does not say how busy it is: is it a fast-inference server?") from error
    return StatusReport(client.url, state, model=look.model, load=look.load, cores=look.cores)


def _show(namespace: argparse.Namespace, look: Callable[[], "StatusReport"]) -> int:
    while True:
        report = look()
        text = report.as_json() if namespace.json else printable(report.as_text())
        if namespace.watch is None:
            print(text)
            return 0 if report.is_ready else EXIT_NOT_READY
        if namespace.json:
            print(text, flush=True)
        elif has_cursor(sys.stdout):
            print(f"{_HOME_AND_CLEAR}{text}", flush=True)
        else:
            print(f"{text}\n", flush=True)
        time.sleep(namespace.watch)
