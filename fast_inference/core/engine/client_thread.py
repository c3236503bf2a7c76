"""The client side of an in-process engine: an event loop in a thread of its own, with a frontend's state on it.

So synchronous callers, callers in other threads and callers inside a running event loop all reach the core in one way,
the way of every client. Owned by `universal_engine.py`, and by an `LLM` that is attached to a server
(`fast_inference/offline/connection.py`).
Invariant: after `stop` nothing of it is left, and every future that it gave is done.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from fast_inference.core.engine.waiting import result_of
from frontend.server_client import client_of_server
from frontend.state import FrontendState
from ipc.config import FrontendConfig
from ipc.endpoints import RunDir
from ipc.errors import EngineUnavailableError
from ipc.messages import ClientRole

ResultT = TypeVar("ResultT")

_READY_TIMEOUT_S = 60.0
"""For the tokenizer, once the model is loaded."""
_LAST_WORDS_S = 1.0
"""Calls get so long to take in that the core is gone."""
_NUM_WORKERS = 4
"""Threads for what takes long on the loop, such as tokenizing a long text."""


class ClientThread:
    """A connection to the core of a run dir."""

    def __init__(
        self,
        run_dir: RunDir,
        config: FrontendConfig,
        created_at: int,
        *,
        name: str = "in-process",
        role: ClientRole = ClientRole.FRONTEND,
        process_role: str = "",
    ) -> None:
        """Connect, and wait until requests are accepted. `name` and `role` are what the core hears of us; metrics call
        this process `process_role`, which is empty where the core runs in it.

        Raises:
            ConfigError: the tokenizer or the chat template cannot be used.
            EngineUnavailableError: the core does not answer.
        """
        client = client_of_server(run_dir, name=name, role=role)
        self.state = FrontendState(
            config, client, created_at=created_at, config_file=run_dir.config_file, role=process_role
        )
        self._loop = asyncio.new_event_loop()
        self._executor = ThreadPoolExecutor(_NUM_WORKERS, thread_name_prefix="engine client")
        self._loop.set_default_executor(self._executor)
        self._pid = os.getpid()
        self._is_stopping = False
        self._loss: str | None = None
        """Why there is no core any more."""
        self._stop_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="engine client", daemon=True)
        self._thread.start()
        try:
            result_of(self.submit(self._start()))
        except BaseException:
            self.stop()
            raise

    @property
    def is_here(self) -> bool:
        """False in a process that was forked from ours: it has the object, and neither the thread nor the core."""
        return os.getpid() == self._pid

    @property
    def is_current(self) -> bool:
        """True on the thread itself, which must not wait for what it does."""
        return threading.current_thread() is self._thread

    @property
    def end(self) -> EngineUnavailableError | None:
        """The error of all calls from now on; None while the core can be asked."""
        if self._is_stopping:
            return EngineUnavailableError("The engine is closed.", code="engine_stopped")
        if self._loss is not None:
            return EngineUnavailableError(self._loss, code="engine_failed")
        return None

    def submit(self, work: Coroutine[Any, Any, ResultT]) -> "Future[ResultT]":
        """Run it on the loop; cancelling the future stops it.

        Raises:
            EngineUnavailableError: the engine is closed, has failed, or is that of the parent process.
        """
        if not self.is_here:
            work.close()
            raise EngineUnavailableError(
                "The engine is in the parent process: make one here, or start processes with spawn.",
                code="engine_stopped",
            )
        with self._stop_lock:
            if (end := self.end) is not None:
                work.close()
                raise end
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def disconnect(self, reason: str) -> None:
        """The core is gone: whatever still waits for it ends in an error. May be called from any thread."""
        with self._stop_lock:
            if not self._is_stopping and self._loss is None:
                self._loss = reason
                asyncio.run_coroutine_threadsafe(self.state.close(), self._loop)

    def stop(self) -> None:
        """Let go of the core and end the thread; returns when that is done. Later calls do nothing."""
        with self._stop_lock:
            if self._is_stopping:
                return
            self._is_stopping = True
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._executor.shutdown()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _start(self) -> None:
        await self.state.start()
        await self.state.wait_until_ready(_READY_TIMEOUT_S)
        self.state.model()  # raises where it is not ready

    async def _stop(self) -> None:
        await self.state.close()  # which fails all that still runs
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=_LAST_WORDS_S)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
