"""How many batches there are, by status, for `/metrics`: from their database, which a scrape does not wait for long."""

import asyncio
from contextlib import suppress

from frontend.batch_api.records import BatchStatus
from frontend.batch_api.service import BatchApi
from frontend.errors import BatchApiDisabledError, StorageError
from ipc.errors import ConfigError
from ipc.metric_series import SeriesValues, series_key

_PATIENCE_S = 0.05
"""A disk that takes longer answers the next scrape."""


class BatchJobs:
    """The counts as of the last look."""

    def __init__(self, api: BatchApi) -> None:
        self._api = api
        self._known: SeriesValues = {}
        self._looking: asyncio.Task[None] | None = None

    async def values(self) -> SeriesValues:
        """Series of all statuses; none where there has never been a batch."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        await asyncio.wait([self._looking], timeout=_PATIENCE_S)
        return self._known

    async def _look(self) -> None:
        with suppress(BatchApiDisabledError, StorageError, ConfigError):  # logged by whoever works with batches
            if not self._api.state_dir.database.exists():
                return
            counts = await self._api.store.call(lambda database: database.num_batches_by_status())
            self._known = {series_key("batch_jobs", status): counts.get(status, 0) for status in BatchStatus}
