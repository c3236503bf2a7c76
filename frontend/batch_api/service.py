"""What the endpoints of files and batches share: where the state is, and who sees what of it."""

import time
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from frontend.access import caller_of
from frontend.batch_api.records import BatchRecord, FileRecord
from frontend.batch_api.state_dir import StateDir
from frontend.batch_api.store_thread import StoreThread
from frontend.errors import BatchApiDisabledError
from ipc.config import BatchApiConfig


class BatchApi:
    """Owned by one frontend. The launcher has made the state dir; where it could not, there is none."""

    def __init__(self, config: BatchApiConfig) -> None:
        self.config = config
        path = config.state_dir if config.batch_api else None
        self._state_dir = None if path is None else StateDir(path)
        self._store = None if self._state_dir is None else StoreThread(self._state_dir)

    @property
    def state_dir(self) -> StateDir:
        """Raises `BatchApiDisabledError` where there is none."""
        if self._state_dir is None:
            raise BatchApiDisabledError("This server keeps no files and batches.")
        return self._state_dir

    @property
    def store(self) -> StoreThread:
        """The same."""
        if self._store is None:
            raise BatchApiDisabledError("This server keeps no files and batches.")
        return self._store

    def close(self) -> None:
        """Let go of the database."""
        if self._store is not None:
            self._store.close()


def owner_of(request: Request) -> str | None:
    """The id of the key whose files and batches this request may see; None for all: an administrator, or no keys."""
    caller = caller_of(request)
    return None if caller.is_admin or not caller.key_id else caller.key_id


def list_page(found: Sequence[FileRecord] | Sequence[BatchRecord], limit: int) -> dict[str, Any]:
    """OpenAI's page of at most `limit` of what was found, where one more was looked for."""
    page = found[:limit]
    return {
        "object": "list",
        "data": [record.as_api() for record in page],
        "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None,
        "has_more": len(found) > len(page),
    }


def now() -> int:
    """Seconds since the epoch."""
    return int(time.time())
