"""A supervised engine core beside an application that somebody else serves: the child process of the launcher.

Made by `openai_api_server.py` and entered with the application's lifespan. The model is looked for and loaded while the
application serves already, so that probes can ask; a core that dies is replaced under live requests. One that cannot
start ends the server, by SIGTERM to this process, which every ASGI server takes for the end.
Invariant: after the end no process and no file of it is left. Next: `fast_inference/core_supervisor.py`.
"""

import asyncio
import logging
import os
import signal
from types import TracebackType

from fast_inference.config_file import write_config
from fast_inference.core_supervisor import CORE_GRACE_S, CoreSupervisor
from fast_inference.model_store import resolve_model
from fast_inference.progress import log_progress
from fast_inference.settings import Settings
from ipc.endpoints import RunDir
from ipc.errors import ConfigError

log = logging.getLogger(__name__)


class SupervisedCore:
    """An asynchronous context manager; use it from one event loop."""

    def __init__(self, settings: Settings, run_dir: RunDir) -> None:
        """`run_dir` is made when the core is started."""
        self._settings = settings
        self._run_dir = run_dir
        self._cores = CoreSupervisor(run_dir, settings.hang_timeout, lambda: None, self._on_failure)

    async def __aenter__(self) -> None:
        """Begin to load; returns at once. Raises `ConfigError` where the run dir cannot be had."""
        self._run_dir.create()
        self._lock = self._run_dir.lock_launcher()
        self._run_dir.forget_crashes()
        self._running = asyncio.create_task(self._run())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the core; what it still runs has `drain_timeout` seconds."""
        await self._cores.stop(self._settings.drain_timeout + CORE_GRACE_S)
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        for child in self._cores.children:
            child.kill()
        self._run_dir.remove_files()
        os.close(self._lock)

    async def _run(self) -> None:
        try:
            model = await asyncio.to_thread(resolve_model, self._settings.model, log_progress, rope=self._settings.rope)
            resolved = {"model": model, "run_dir": self._run_dir.path}
            write_config(self._settings.model_copy(update=resolved), self._run_dir.config_file)
            await self._cores.run()
        except ConfigError as error:
            self._on_failure(error.message)

    def _on_failure(self, message: str | None) -> None:
        """The core cannot be had; without a message it has said why itself."""
        if message is not None:
            log.error("%s", message)
        signal.raise_signal(signal.SIGTERM)
