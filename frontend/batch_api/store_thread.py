"""The database off the event loop: one thread, one connection, opened at the first use.

Errors of SQLite become `StorageError`, whose message says no more than what a client can act on.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from frontend.batch_api.state_dir import StateDir
from frontend.errors import StorageError

if TYPE_CHECKING:
    from frontend.batch_api.store import StateStore

log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")


class StoreThread:
    """Owned by one process."""

    def __init__(self, state_dir: StateDir) -> None:
        self._state_dir = state_dir
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch-store")
        self._store: StateStore | None = None

    async def call(self, work: Callable[["StateStore"], ResultT]) -> ResultT:
        """What `work` returns; whoever waits no longer stops nothing that has begun.

        Raises:
            StorageError: the disk or another process is in the way; nothing of a transaction has happened.
            ConfigError: the database is of a newer version.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, work)

    def close(self) -> None:
        """Let go of the database, when what has begun is done."""
        self._thread.shutdown()
        if self._store is not None:
            self._store.close()

    def _call(self, work: Callable[["StateStore"], ResultT]) -> ResultT:
        import sqlite3  # not in every Python; whoever has none has no batches either

        try:
            store = self._store = self._store or _opened(self._state_dir)
            return work(store)
        except sqlite3.Error as error:
            log.warning("the database of files and batches: %s", error)
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise StorageError("The disk of the server is full.", code="storage_full") from error
            raise StorageError("The server cannot read or write its database of files and batches now.") from error


def _opened(state_dir: StateDir) -> "StateStore":
    from frontend.batch_api.store import StateStore

    try:
        return StateStore(state_dir)
    except OSError as error:
        log.warning("the database of files and batches: %s", error)
        raise StorageError("The server cannot open its database of files and batches now.") from error
