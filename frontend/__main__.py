"""The frontend process: `python -m frontend --config RUN_DIR/config.json --fd N --index I [--ready-fd N]`.

Started by the launcher, which owns the listening socket and hands it down as a descriptor: all frontends share one
port, unless each has its own. It dies with the launcher. With `--ready-fd` it writes `ready` to that descriptor, once,
when it serves HTTP and the model's tokenizer is loaded. SIGTERM drains (`draining.py`): running requests get
`drain_timeout` seconds, then exit code 0; a second one ends them at once.
A configuration that cannot work is one `error:` line and exit code 1; anything unforeseen is a logged trace and 70.
Next: `app.py`.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import cast

import uvicorn
import uvloop

from frontend.acceptor import Acceptor
from frontend.app import create_app
from frontend.connection_counts import ConnectionCounts
from frontend.connection_limit import max_connections
from frontend.draining import Drain, close_after_answer
from frontend.host_header import HostPolicy
from frontend.http_protocol import ConnectionGuards, HttpProtocol
from frontend.server_client import client_of_server
from frontend.state import FrontendState
from frontend.tracing import Tracing
from ipc.config import ConnectionConfig, FrontendConfig, LauncherConfig, LogConfig, TracingConfig, load_section
from ipc.endpoints import RunDir
from ipc.errors import ConfigError
from ipc.exit_codes import EXIT_CONFIG_ERROR, EXIT_INTERNAL_ERROR
from ipc.log import configure_logging
from ipc.messages import ClientRole
from ipc.process import die_with_parent, raise_descriptor_limit
from ipc.recovery import CoreLossPolicy

_WATCH_INTERVAL_S = 0.1
_WATCH_PAUSE_S = 0.005
_FIRST_WORD_S = 1.0
"""What is wrong for one frontend is wrong for all: the first says so, and the launcher ends the others meanwhile."""

log = logging.getLogger(__name__)


class FrontendServer(uvicorn.Server):
    """uvicorn on connections from an `Acceptor`; says when it serves."""

    def __init__(
        self,
        config: uvicorn.Config,
        counts: ConnectionCounts,
        guards: ConnectionGuards,
        max_connections: int,
        drain: Drain,
        drain_timeout_s: float,
    ) -> None:
        super().__init__(config)
        self._counts = counts
        self._guards = guards
        self._max_connections = max_connections
        self._drain = drain
        self._drain_timeout_s = drain_timeout_s
        self.is_serving = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise RuntimeError("the application did not start")
        self._acceptors = [
            Acceptor(
                listening, self._create_protocol, self._counts, self.server_state.connections, self._max_connections
            )
            for listening in sockets or ()
        ]
        self.servers = cast("list[asyncio.Server]", self._acceptors)  # what shutdown uses of them
        self._watching = asyncio.create_task(self._watch_connections())
        self.started = True
        self.is_serving.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain; deadlines hold meanwhile."""
        await super().shutdown(sockets)
        self._watching.cancel()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; raises what ended the watching of connections."""
        if self._watching.done():
            self._watching.result()  # raises: without deadlines nobody is to be served
        self._counts.publish(self._num_connections())
        num_turned_away = sum(acceptor.num_turned_away for acceptor in self._acceptors)
        self._guards.metrics.note_connections(self._num_connections(), num_turned_away)
        if self._drain.is_draining:
            self._go_on_draining()
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins to drain, a second one ends what runs."""
        self._drain.begin(0.0 if self._drain.is_draining else self._drain_timeout_s)

    def _go_on_draining(self) -> None:
        """Leave when nothing runs any more, or no time is left."""
        close_after_answer(self.server_state.connections)
        if not self._drain.num_running:
            for server in self.servers:
                server.close()
        if self._drain.is_over or self._drain.is_late:
            self.config.timeout_graceful_shutdown = 0 if self._drain.is_late else 1
            self.should_exit = True

    async def _watch_connections(self) -> None:
        while True:
            has_more = self._guards.expire()
            await asyncio.sleep(_WATCH_PAUSE_S if has_more else _WATCH_INTERVAL_S)
            for acceptor in self._acceptors:
                acceptor.expire()

    def _num_connections(self) -> int:
        return len(self.server_state.connections)

    def _create_protocol(self) -> asyncio.Protocol:
        protocol_class = cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class)
        return protocol_class(
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            guards=self._guards,
        )


def build_server(config_file: Path, index: int) -> tuple[FrontendServer, FrontendState]:
    """Put the process together.

    Raises:
        ConfigError: the configuration cannot be read.
    """
    frontend_config = load_section(config_file, FrontendConfig)
    client = client_of_server(
        RunDir(config_file.parent),
        name=f"frontend-{index}",
        role=ClientRole.FRONTEND,
        on_core_loss=CoreLossPolicy(frontend_config.on_core_loss),
    )
    launcher_config = load_section(config_file, LauncherConfig)
    counts = ConnectionCounts(
        RunDir(config_file.parent).connections_file,
        index,
        max(launcher_config.frontends, index + 1),
        shares_port=not launcher_config.frontend_ports,
    )
    state = FrontendState(
        frontend_config,
        client,
        created_at=int(config_file.stat().st_mtime),
        config_file=config_file,
        tracing=Tracing.of(load_section(config_file, TracingConfig)),
    )
    config = uvicorn.Config(
        create_app(state),
        http=HttpProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(launcher_config.drain_timeout)),
    )
    connection_config = load_section(config_file, ConnectionConfig)
    hosts = HostPolicy(frontend_config, is_local=launcher_config.is_local)
    guards = ConnectionGuards.of(connection_config, hosts, state.metrics)
    num_connections = max_connections(connection_config)
    return FrontendServer(config, counts, guards, num_connections, state.drain, launcher_config.drain_timeout), state


async def serve(server: FrontendServer, state: FrontendState, listening: socket.socket, ready_fd: int | None) -> None:
    """Serve until SIGTERM.

    Raises:
        ConfigError: the first model's tokenizer or chat template cannot be used.
        BaseException: whatever else ended the watching of the core.
    """
    announcing = asyncio.create_task(_announce(server, state, ready_fd))
    stopping = asyncio.create_task(_stop_on_failure(server, state))
    try:
        await server.serve(sockets=[listening])
    finally:
        announcing.cancel()
        stopping.cancel()
    if state.failure is not None:
        raise state.failure


async def _announce(server: FrontendServer, state: FrontendState, ready_fd: int | None) -> None:
    """Tell the launcher, once, that requests are served; then settle the heap."""
    await server.is_serving.wait()
    await state.became_ready.wait()
    gc.collect()
    gc.freeze()  # what was loaded stays; collections need not look at it again
    if ready_fd is not None:
        os.write(ready_fd, b"ready\n")
        os.close(ready_fd)


async def _stop_on_failure(server: FrontendServer, state: FrontendState) -> None:
    await state.failed.wait()
    server.should_exit = True  # uvicorn's own way to drain


def _exit_orderly(_signal: int, _frame: FrameType | None) -> None:
    """Before and after uvicorn handles signals itself (it raises them again when it has drained)."""
    sys.exit(0)


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m frontend", description="HTTP frontend; started by the launcher.")
    parser.add_argument("--config", type=Path, required=True, help="config.json in the run dir")
    parser.add_argument("--fd", type=int, required=True, help="descriptor of the listening socket")
    parser.add_argument("--index", type=int, required=True, help="number of this frontend, from 0")
    parser.add_argument("--ready-fd", type=int, help="descriptor to which 'ready' is written once")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process; returns its exit code."""
    arguments = _parse_arguments(argv)
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, _exit_orderly)
    try:
        die_with_parent()
        raise_descriptor_limit()
        log_config = load_section(arguments.config, LogConfig)
        configure_logging(log_config, f"frontend-{arguments.index}")
        if log_config.log_level == "info":
            logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # its start and stop are the launcher's news
        server, state = build_server(arguments.config, arguments.index)
        listening = socket.socket(fileno=arguments.fd)
        uvloop.run(serve(server, state, listening, arguments.ready_fd))
    except ConfigError as error:
        if arguments.index > 0:
            time.sleep(_FIRST_WORD_S)
        sys.stderr.write(f"error: {' '.join(error.message.split())}\n")
        return EXIT_CONFIG_ERROR
    except Exception:
        log.exception("frontend %d failed", arguments.index)
        return EXIT_INTERNAL_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
