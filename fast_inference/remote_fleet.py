"""The cores of a server that run on other hosts (`--connect`): whoever started them there keeps them running, too.

Has the face of the supervisor of cores, so that `launcher.py` need not care who runs them: this one writes `cores.json`
for the clients of this server, and looks at the cores as one of them. The server is ready when the first core is, and
serves as long as one is. Invariant: nothing here starts or ends a core.
Next: `ipc/core_link.py`, which notices their end.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from fast_inference.child import Child
from fast_inference.status import CoreStatus
from ipc.client import EngineClient
from ipc.core_directory import CoreDirectory, write_cores
from ipc.curve import CurveDir
from ipc.endpoint_config import EndpointConfig
from ipc.endpoints import RemoteCore, RunDir
from ipc.messages import ClientRole, Welcome
from ipc.placement import CoreView

log = logging.getLogger(__name__)

_POLL_S = 0.2
_WORD_INTERVAL_S = 10.0
"""How often the log says what is waited for."""


def remote_cores(config: EndpointConfig) -> dict[str, RemoteCore]:
    """The addresses of the cores, by the names that clients and metrics call them.

    Raises:
        ConfigError: a key that is needed is missing, damaged, or readable for others.
    """
    assert config.curve_dir is not None, "the configuration has both or none"
    folder = CurveDir(config.curve_dir)
    folder.client_keys(config.curve_client)
    cores = {}
    for endpoint in config.connect:
        host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")  # as it is written, unlike urlsplit's
        server_key = folder.server_public_key(host).decode()
        cores[endpoint.removeprefix("tcp://")] = RemoteCore(endpoint, folder.path, config.curve_client, server_key)
    return cores


class RemoteFleet:
    """The cores that one launcher has its frontends use."""

    def __init__(self, run_dir: RunDir, config: EndpointConfig, on_change: Callable[[], None]) -> None:
        """Nothing is connected yet.

        Raises:
            ConfigError: as `remote_cores`.
        """
        self._run_dir = run_dir
        self._cores = remote_cores(config)
        self._on_change = on_change
        self._client: EngineClient | None = None
        self.was_heard = asyncio.Event()
        """Set from the start: nothing loads here that frontends would have to wait for."""
        self.was_heard.set()
        self.children: list[Child] = []
        """None."""
        self.is_stuck = False
        """A core that hangs is the business of whoever started it."""

    @property
    def is_ready(self) -> bool:
        """True while one of the cores takes requests."""
        return self._client is not None and self._client.is_ready

    @property
    def are_all_ready(self) -> bool:
        """The same: the server need not wait for others, which may be down for long, and come when they come."""
        return self.is_ready

    @property
    def model_id(self) -> str:
        """The model of the cores; empty until one was ready."""
        welcome = self._client.welcome if self._client is not None else None
        return welcome.model_id if welcome is not None else ""

    @property
    def num_blocks(self) -> int:
        """Of the KV caches of those that are ready."""
        return sum(welcome.num_blocks for welcome in self._welcomes())

    @property
    def can_generate(self) -> bool:
        """False where the model gives embeddings only."""
        return all(welcome.can_generate for welcome in self._welcomes())

    @property
    def num_running(self) -> int:
        """Requests that the cores run, of all their clients."""
        return self._client.load.num_running if self._client is not None else 0

    @property
    def stage(self) -> str:
        """What is waited for, for people."""
        detail = self._client.detail if self._client is not None else ""
        return f"waiting for {', '.join(self._cores)}" + (f": {detail}" if detail else "")

    def statuses(self) -> tuple[CoreStatus, ...]:
        """What `status.json` says of each core, whose process means nothing here."""
        views = {view.name: view for view in self._client.cores} if self._client is not None else {}
        return tuple(_status_of(name, views.get(name)) for name in self._cores)

    def prepare(self) -> None:
        """Tell clients where the cores are.

        Raises:
            OSError: the file cannot be written.
        """
        write_cores(self._run_dir, self._cores)

    async def run(self) -> None:
        """Follow the cores until cancelled."""
        self._client = EngineClient(CoreDirectory(self._run_dir), name="launcher", role=ClientRole.ADMIN)
        await self._client.start()
        try:
            told_at = time.monotonic()
            while True:
                self._on_change()
                if self.is_ready:
                    told_at = time.monotonic()
                elif time.monotonic() - told_at > _WORD_INTERVAL_S:
                    log.warning("no core on another host takes requests; %s", self.stage)
                    told_at = time.monotonic()
                await asyncio.sleep(_POLL_S)
        finally:
            await self._client.close()

    async def stop(self, timeout_s: float) -> None:
        """Nothing: the cores serve others."""

    def _welcomes(self) -> list[Welcome]:
        views = self._client.cores if self._client is not None else []
        return [view.welcome for view in views if view.is_ready and view.welcome is not None]


def _status_of(name: str, view: CoreView | None) -> CoreStatus:
    if view is None or (view.state is None and view.welcome is None):
        return CoreStatus(state="starting", name=name)
    epoch = view.welcome.epoch if view.welcome is not None else 0
    return CoreStatus(epoch=epoch, state="dead" if view.state is None else view.state.name.lower(), name=name)
