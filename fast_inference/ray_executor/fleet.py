"""The launcher's side of `--executor ray`: keeps the agent running, and knows of the cores what the agent has written.

Has the face of `CoreFleet`, so that `launcher.py` need not care who runs the cores. Invariant: only settings end
the server; an agent that dies, or a Ray that is away, is waited for while frontends serve on.
Next: `agent.py`.
"""

import asyncio
import importlib.util
import logging
from collections.abc import Callable

from fast_inference.child import Child, stop_children
from fast_inference.ray_executor.fleet_state import FleetState
from fast_inference.status import CoreStatus
from ipc.config import core_range
from ipc.core_directory import write_cores
from ipc.endpoints import RunDir
from ipc.errors import ConfigError
from ipc.exit_codes import EXIT_CONFIG_ERROR

log = logging.getLogger(__name__)

_POLL_S = 0.2
_FIRST_DELAY_S = 0.5
_MAX_DELAY_S = 10.0
_END_GRACE_S = 15.0
"""What the agent gets beyond the time for requests: it waits for the cores, if they end with this launcher."""


def check_installed() -> None:
    """Raise `ConfigError` where there is no Ray; imports nothing."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--executor ray needs Ray: pip install 'fast-inference[ray]'")


class RayFleet:
    """The cores of one launcher, which may be those of others too."""

    def __init__(
        self, run_dir: RunDir, cores: int | str, on_change: Callable[[], None], on_failure: Callable[[str | None], None]
    ) -> None:
        """`on_failure` gets the reason, or None where the agent has said it in one line itself."""
        self._run_dir = run_dir
        self._min_cores = core_range(cores)[0]
        self._on_change = on_change
        self._on_failure = on_failure
        self._agent: Child | None = None
        self._state = FleetState(stage="starting the agent of Ray")
        self.was_heard = asyncio.Event()
        """Set when the agent has first said something."""
        self.has_been_ready = False
        self._is_stopping = False

    @property
    def children(self) -> list[Child]:
        """The agent."""
        return [] if self._agent is None else [self._agent]

    @property
    def is_ready(self) -> bool:
        """True while a core is to be used."""
        return self._state.num_listed > 0

    @property
    def are_all_ready(self) -> bool:
        """True while there are as many as there must be."""
        return self._state.num_listed >= self._min_cores

    @property
    def is_stuck(self) -> bool:
        """False: what hangs is the business of whoever supervises the cores."""
        return False

    @property
    def num_blocks(self) -> int:
        """Of all KV caches together."""
        return sum(core.num_blocks for core in self._state.cores)

    @property
    def can_generate(self) -> bool:
        """False where the model gives embeddings only."""
        return all(core.can_generate for core in self._state.cores)

    @property
    def num_running(self) -> int:
        """Requests that the cores run, of all servers of the fleet."""
        return sum(core.num_running for core in self._state.cores)

    @property
    def stage(self) -> str:
        """What is waited for, for people."""
        return self._state.stage

    def statuses(self) -> tuple[CoreStatus, ...]:
        """What `status.json` says of each core that is heard; of one that is not there, while there is none."""
        if not self._state.cores:
            return (CoreStatus(),)
        return tuple(
            CoreStatus(core.pid, core.epoch, core.state, core.last_exit, core.restarts, core.name)
            for core in self._state.cores
        )

    def prepare(self) -> None:
        """Tell clients that there is no core yet, which is not the same as no file. Raises OSError."""
        write_cores(self._run_dir, {})

    async def run(self) -> None:
        """Keep the agent running and follow what it writes, until cancelled or until `on_failure` was called."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_agent())
            group.create_task(self._follow())

    async def stop(self, timeout_s: float) -> None:
        """Leave the fleet; where this was the last launcher, the cores end."""
        self._is_stopping = True
        await stop_children(self.children, timeout_s + _END_GRACE_S if self.was_heard.is_set() else timeout_s)

    async def _keep_agent(self) -> None:
        delay_s = _FIRST_DELAY_S
        while not self._is_stopping:
            arguments = ["--config", str(self._run_dir.config_file)]
            try:
                agent = self._agent = Child("agent of Ray", "fast_inference.ray_executor.agent", arguments)
            except OSError as error:
                self._on_failure(f"cannot start the agent of Ray: {error}")
                return
            started_at = asyncio.get_running_loop().time()
            self._on_change()
            await agent.wait()
            if self._is_stopping:
                return
            if not self.has_been_ready and agent.exit_code == EXIT_CONFIG_ERROR:
                self._on_failure(None)
                return
            if asyncio.get_running_loop().time() - started_at > _MAX_DELAY_S:
                delay_s = _FIRST_DELAY_S
            log.error("%s (pid %d) %s; restart in %.1f s", agent.name, agent.pid, agent.exit_text, delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _MAX_DELAY_S)

    async def _follow(self) -> None:
        while not self._is_stopping:
            if self._run_dir.fleet_file.exists():
                self._state = FleetState.read(self._run_dir.fleet_file)
                self.was_heard.set()
                self.has_been_ready |= self.are_all_ready
                self._on_change()
            await asyncio.sleep(_POLL_S)
