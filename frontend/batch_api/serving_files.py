"""`/v1/files`: upload, list, retrieve, content, delete.

A file belongs to the API key that uploaded it, or whose batch made it; for other keys it is not there.
Next: `upload.py`.
"""

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import FileResponse, Response

from frontend.access import caller_of
from frontend.batch_api.protocol import FileQuery, read_query
from frontend.batch_api.records import FileRecord, new_file_id
from frontend.batch_api.service import BatchApi, list_page, now, owner_of
from frontend.batch_api.state_dir import StateDir
from frontend.batch_api.upload import receive_upload, storage_error
from frontend.errors import OriginNotAllowedError, StoredFileNotFoundError, json_response
from frontend.state import FrontendState
from ipc.errors import InvalidRequestError

if TYPE_CHECKING:
    from frontend.batch_api.store import StateStore

_RANGE = re.compile(r"bytes=(?P<first>[0-9]{0,18})-(?P<last>[0-9]{0,18})")


class ServingFiles:
    """The endpoints of files. All raise `BatchApiDisabledError` and `StorageError`."""

    def __init__(self, state: FrontendState, api: BatchApi) -> None:
        self._api = api
        self._allowed_origins = frozenset(state.config.allowed_origins)

    async def upload(self, request: Request) -> Response:
        """Keep a file; raises as `receive_upload` does, and `OriginNotAllowedError`."""
        state_dir, store = self._api.state_dir, self._api.store
        self._check_origin(request)
        upload = await receive_upload(request, state_dir, self._api.config.max_file_bytes)
        created_at, expires = now(), upload.form.expires_after
        record = FileRecord(
            new_file_id(),
            caller_of(request).key_id,
            created_at,
            upload.num_bytes,
            upload.filename,
            upload.form.purpose,
            None if expires is None else created_at + expires.seconds,
        )
        try:
            await store.call(lambda database: _keep(database, state_dir, upload.path, record))
        except OSError as error:
            raise storage_error(error) from error
        finally:
            upload.path.unlink(missing_ok=True)
        return json_response(record.as_api(), headers=dict(upload.headers))

    async def list_files(self, request: Request) -> Response:
        """One page of the files that the caller may see."""
        query, owner = read_query(request.query_params, FileQuery), owner_of(request)
        if query.after is not None and await self._find(query.after, owner) is None:
            raise InvalidRequestError("after: there is no such file.", param="after", code="file_not_found")
        found = await self._api.store.call(
            lambda database: database.files(
                owner,
                now(),
                limit=query.limit + 1,
                purpose=query.purpose,
                after=query.after,
                is_ascending=query.order == "asc",
            )
        )
        return json_response(list_page(found, query.limit))

    async def retrieve(self, request: Request) -> Response:
        """One file; raises `StoredFileNotFoundError`."""
        return json_response((await self._file(request)).as_api())

    async def content(self, request: Request) -> Response:
        """Its bytes, or the part that `Range` asks for; raises `StoredFileNotFoundError`.

        A `Range` that cannot be given is passed over, as RFC 9110 (14.2) allows: the refusals of starlette have no
        error body.
        """
        record = await self._file(request)
        path = self._api.state_dir.file(record.id)
        try:
            found = await asyncio.to_thread(path.stat)
        except FileNotFoundError as error:  # it was deleted a moment ago
            raise _not_found() from error
        if not _is_part(request.headers.get("range", ""), found.st_size):
            request.scope["headers"] = [item for item in request.scope["headers"] if item[0] != b"range"]
        return FileResponse(
            path,
            media_type="application/octet-stream",
            filename=record.filename,
            stat_result=found,
            headers={"x-content-type-options": "nosniff"},
        )

    async def delete(self, request: Request) -> Response:
        """Forget a file; a batch that has it as its input goes on. Raises `StoredFileNotFoundError`."""
        record, owner = await self._file(request), owner_of(request)
        state_dir = self._api.state_dir
        if not await self._api.store.call(lambda database: _forget(database, state_dir, record.id, owner)):
            raise _not_found()
        return json_response({"id": record.id, "object": "file", "deleted": True})

    async def _file(self, request: Request) -> FileRecord:
        record = await self._find(str(request.path_params["file_id"]), owner_of(request))
        if record is None:
            raise _not_found()
        return record

    async def _find(self, file_id: str, owner: str | None) -> FileRecord | None:
        return await self._api.store.call(lambda database: database.file(file_id, owner, now()))

    def _check_origin(self, request: Request) -> None:
        """Refuse web pages of others: a browser sends their forms without a preflight, unlike JSON."""
        origin = request.headers.get("origin")
        if origin is None or self._allowed_origins & {"*", origin}:
            return
        if origin.partition("://")[2] != request.headers.get("host"):
            raise OriginNotAllowedError("Pages of this origin may not upload files (--allowed-origins).")


def _keep(database: "StateStore", state_dir: StateDir, path: Path, record: FileRecord) -> None:
    """One call, which nobody can cancel in the middle."""
    state_dir.publish(path, record.id)
    try:
        database.add_file(record)
    except BaseException:
        state_dir.remove_file(record.id)
        raise


def _forget(database: "StateStore", state_dir: StateDir, file_id: str, owner: str | None) -> bool:
    is_removed = database.remove_file(file_id, owner)
    if is_removed:
        state_dir.remove_file(file_id)
    return is_removed


def _not_found() -> StoredFileNotFoundError:
    return StoredFileNotFoundError("There is no file with this id.")


def _is_part(asked: str, size: int) -> bool:
    """Whether a `Range` names one part of a file of this size."""
    found = _RANGE.fullmatch(asked)
    if found is None:
        return False
    first, last = found["first"], found["last"]
    if not first:
        return size > 0 and last.strip("0") != ""
    return int(first) < size and (not last or int(first) <= int(last))
