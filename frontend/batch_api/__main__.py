"""The process that runs batches: `python -m frontend.batch_api --config RUN_DIR/config.json`.

Started by the launcher while there is something to do, and dies with it. It ends with status 0 when there has been
nothing to do for a while, and on SIGTERM, with everything kept. A configuration that cannot work is one `error:` line
and exit code 1; anything unforeseen is a logged trace and 70. Next: `runner.py`.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from frontend.batch_api.runner import BatchRunner
from frontend.batch_api.state_dir import StateDir
from frontend.batch_api.store_thread import StoreThread
from frontend.server_client import client_of_server
from frontend.state import FrontendState
from ipc.config import FrontendConfig, LogConfig, load_section
from ipc.endpoints import RunDir
from ipc.errors import ConfigError
from ipc.exit_codes import EXIT_CONFIG_ERROR, EXIT_INTERNAL_ERROR
from ipc.log import configure_logging
from ipc.messages import ClientRole
from ipc.process import die_with_parent, raise_descriptor_limit

log = logging.getLogger(__name__)


async def serve(config_file: Path, created_at: int) -> None:
    """Run batches until there is nothing to do, or until SIGTERM.

    Raises:
        ConfigError: settings, state dir or the first model cannot be used, or another runner uses the state dir.
        BaseException: whatever else ended the watching of the core.
    """
    config = load_section(config_file, FrontendConfig)
    if config.state_dir is None:
        raise ConfigError("there is no state dir")
    state_dir = StateDir(config.state_dir)
    lock = state_dir.lock("batch runner")
    client = client_of_server(RunDir(config_file.parent), name="batch-runner", role=ClientRole.BATCH)
    state = FrontendState(config, client, created_at=created_at, config_file=config_file, role="batch")
    store = StoreThread(state_dir)
    await state.start()
    try:
        await _until_told_to_stop(state, BatchRunner(state, state_dir, store))
    finally:
        await state.close()
        store.close()
        os.close(lock)
    if state.failure is not None:
        raise state.failure


async def _until_told_to_stop(state: FrontendState, runner: BatchRunner) -> None:
    stopping = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stopping.set)
    running = asyncio.create_task(runner.run())
    ends = [running, *(asyncio.create_task(event.wait()) for event in (stopping, state.failed))]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        for task in ends:
            task.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m frontend.batch_api", description="Runs batches of the API; started by the launcher."
    )
    parser.add_argument("--config", type=Path, required=True, help="config.json in the run dir")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))  # until the event loop takes over
    try:
        die_with_parent()
        raise_descriptor_limit()
        configure_logging(load_section(arguments.config, LogConfig), "batch-runner")
        uvloop.run(serve(arguments.config, int(time.time())))
    except ConfigError as error:
        sys.stderr.write(f"error: {' '.join(error.message.split())}\n")
        return EXIT_CONFIG_ERROR
    except Exception:
        log.exception("the batch runner failed")
        return EXIT_INTERNAL_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
