"""`/v1/batches`: create, list, retrieve, cancel. They only change the database; `runner.py` does the work.

A batch belongs to the API key that created it, as files do.
"""

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from frontend.access import caller_of
from frontend.batch_api.protocol import BatchQuery, BatchRequest, read_query
from frontend.batch_api.records import (
    COMPLETION_WINDOW_S,
    UNFINISHED,
    BatchRecord,
    BatchStatus,
    Purpose,
    new_batch_id,
)
from frontend.batch_api.service import BatchApi, list_page, now, owner_of
from frontend.batch_api.state_dir import StateDir
from frontend.batch_api.upload import storage_error
from frontend.endpoints import PATHS
from frontend.errors import BatchNotFoundError, BatchStatusError, TooManyBatchesError, json_response
from frontend.request_body import read_body
from frontend.state import FrontendState
from ipc.errors import InvalidRequestError

if TYPE_CHECKING:
    from frontend.batch_api.store import StateStore

MAX_UNFINISHED_BATCHES = 1000
"""Of one key."""
_RETRY_AFTER_S = 60.0


class ServingBatches:
    """The endpoints of batches. All raise `BatchApiDisabledError` and `StorageError`."""

    def __init__(self, state: FrontendState, api: BatchApi) -> None:
        self._state = state
        self._api = api

    async def create(self, request: Request) -> Response:
        """Take on a batch; raises `InvalidRequestError` and `TooManyBatchesError`."""
        state_dir, store = self._api.state_dir, self._api.store
        body, headers = await read_body(request, BatchRequest, self._state.large_body_slot)
        if body.endpoint not in PATHS:
            raise InvalidRequestError(f"endpoint must be one of {', '.join(PATHS)}.", param="endpoint")
        await self._check_input(body.input_file_id, owner_of(request))
        created_at, expires = now(), body.output_expires_after
        record = BatchRecord(
            id=new_batch_id(),
            key_id=caller_of(request).key_id,
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            created_at=created_at,
            expires_at=created_at + COMPLETION_WINDOW_S,
            metadata=body.metadata,
            output_expires_after_s=None if expires is None else expires.seconds,
        )
        try:
            is_kept = await store.call(lambda database: _keep(database, state_dir, record))
        except FileNotFoundError as error:  # it was deleted a moment ago
            raise _no_input() from error
        except OSError as error:
            raise storage_error(error) from error
        if not is_kept:
            raise TooManyBatchesError(
                f"{MAX_UNFINISHED_BATCHES} batches have not ended yet.", retry_after_s=_RETRY_AFTER_S
            )
        return json_response(record.as_api(), headers=headers)

    async def list_batches(self, request: Request) -> Response:
        """One page of the batches that the caller may see, the latest first."""
        query, owner = read_query(request.query_params, BatchQuery), owner_of(request)
        if query.after is not None and await self._find(query.after, owner) is None:
            raise InvalidRequestError("after: there is no such batch.", param="after", code="batch_not_found")
        found = await self._api.store.call(
            lambda database: database.batches(owner, limit=query.limit + 1, after=query.after)
        )
        return json_response(list_page(found, query.limit))

    async def retrieve(self, request: Request) -> Response:
        """One batch; raises `BatchNotFoundError`."""
        return json_response((await self._batch(request)).as_api())

    async def cancel(self, request: Request) -> Response:
        """End a batch, with what is done of it; raises `BatchNotFoundError`, or `BatchStatusError` for an ended one."""
        record = await self._batch(request)
        if record.status in UNFINISHED:
            state_dir = self._api.state_dir
            await self._api.store.call(lambda database: _cancel(database, state_dir, record))
            record = await self._batch(request)
        if record.status not in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
            raise BatchStatusError(f"A batch that is {record.status} cannot be cancelled.")
        return json_response(record.as_api())

    async def _check_input(self, file_id: str, owner: str | None) -> None:
        file = await self._api.store.call(lambda database: database.file(file_id, owner, now()))
        if file is None:
            raise _no_input()
        if file.purpose != Purpose.BATCH:
            raise InvalidRequestError("The purpose of the input file must be batch.", param="input_file_id")

    async def _batch(self, request: Request) -> BatchRecord:
        record = await self._find(str(request.path_params["batch_id"]), owner_of(request))
        if record is None:
            raise BatchNotFoundError("There is no batch with this id.")
        return record

    async def _find(self, batch_id: str, owner: str | None) -> BatchRecord | None:
        return await self._api.store.call(lambda database: database.batch(batch_id, owner))


def _keep(database: "StateStore", state_dir: StateDir, record: BatchRecord) -> bool:
    """One call, which nobody can cancel in the middle."""
    is_kept = False
    try:
        state_dir.begin_job(record.id, record.input_file_id)
        is_kept = database.add_batch(record, MAX_UNFINISHED_BATCHES)
    finally:
        if not is_kept:
            state_dir.remove_job(record.id)
    return is_kept


def _cancel(database: "StateStore", state_dir: StateDir, record: BatchRecord) -> None:
    database.cancel(record.id, now())
    after = database.batch(record.id, None)
    if after is not None and after.status is BatchStatus.CANCELLED:
        state_dir.remove_job(record.id)


def _no_input() -> InvalidRequestError:
    return InvalidRequestError("There is no file with this id.", param="input_file_id", code="file_not_found")
