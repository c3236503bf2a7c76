"""`python -m fast_inference.ray_executor.agent --config RUN_DIR/config.json`: a launcher's connection to a Ray cluster.

The only process beside a frontend that imports Ray. The launcher starts it again when it ends, and until it is back
everything goes on with what it wrote last.
Exit codes: 0 told to end, 1 a setting (one line on stderr), 70 a bug, 75 Ray was lost.
Next: `follower.py`, what it does; `fleet.py`, the launcher's side.
"""

import argparse
import asyncio
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

from fast_inference.ray_executor.fleet import check_installed
from fast_inference.ray_executor.fleet_spec import NAMESPACE, FleetSpec
from ipc.config import LogConfig, load_section
from ipc.endpoints import RunDir
from ipc.errors import ConfigError
from ipc.exit_codes import EXIT_CONFIG_ERROR, EXIT_INTERNAL_ERROR
from ipc.log import configure_logging
from ipc.process import die_with_parent
from ipc.ray_config import RayConfig

log = logging.getLogger(__name__)

EXIT_RAY_LOST = 75
"""Starting this process again may help."""
_CONNECT_TIMEOUT_S = 5.0
_MAX_REASON_CHARS = 300


def connect(config: RayConfig) -> None:
    """Find Ray, or start one here where none is named and none runs.

    Raises:
        ConfigError: it is not installed, or not where it is said to be.
    """
    check_installed()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if config.ray_address is not None:
        _check_listens(config.ray_address)
    import ray

    options: dict[str, Any] = {"namespace": NAMESPACE, "configure_logging": False, "log_to_driver": False}
    try:
        ray.init(address=config.ray_address, include_dashboard=False, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        where = f" at {config.ray_address}" if config.ray_address else ""
        reason = " ".join(str(error).split())[:_MAX_REASON_CHARS]
        raise ConfigError(f"cannot connect to Ray{where} (--ray-address): {reason}") from error


def _check_listens(address: str) -> None:
    """Raise `ConfigError` where nobody listens at HOST:PORT, which Ray would wait for, for more than a minute."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal() or "/" in address:  # "auto", or a scheme
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot connect to Ray at {address} (--ray-address): {reason}") from error


def main() -> int:
    """Run the agent to its end; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fast_inference.ray_executor.agent")
    parser.add_argument("--config", type=Path, required=True, help="config.json in the run dir")
    config_file = parser.parse_args().config
    try:
        die_with_parent()
        configure_logging(load_section(config_file, LogConfig), "ray agent")
        return _follow(config_file)
    except ConfigError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return EXIT_CONFIG_ERROR
    except Exception:  # the top of the process
        log.exception("the agent failed")
        return EXIT_INTERNAL_ERROR


def _follow(config_file: Path) -> int:
    spec = FleetSpec.read(config_file)
    connect(load_section(config_file, RayConfig))
    import ray

    from fast_inference.ray_executor.follower import FleetFollower, RayLostError

    try:
        asyncio.run(FleetFollower(RunDir(config_file.parent), spec).run())
    except RayLostError as error:
        log.warning("%s", error)
        return EXIT_RAY_LOST
    finally:
        ray.shutdown()  # and the one that was started here
    return 0


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
