"""What `/v1/files` and `/v1/batches` read: bodies, fields of forms, and queries of lists."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field
from starlette.datastructures import QueryParams

from frontend.openai.protocol.body import Body
from frontend.openai.unsupported import Unsupported
from frontend.request_body import check_fields, validate_body
from ipc.errors import InvalidRequestError

MAX_LISTED_FILES = 10_000
MAX_LISTED_BATCHES = 100
_MAX_ID_CHARS = 100

QueryT = TypeVar("QueryT", bound=Body)

FileId = Annotated[str, Field(max_length=_MAX_ID_CHARS)]


def _whole_number(value: Any) -> Any:
    """Forms and queries have texts only."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10 else value


FormInt = Annotated[int, BeforeValidator(_whole_number)]


class _BatchApiBody(Body):
    unsupported_parameters: ClassVar[Mapping[str, Unsupported]] = {}
    harmless_parameters: ClassVar[Mapping[str, str]] = {}


class ExpiresAfter(_BatchApiBody):
    """When a file goes away by itself."""

    anchor: Literal["created_at"]
    """what the time is counted from"""
    seconds: FormInt = Field(ge=3600, le=2_592_000)
    """how long it stays, 3600 to 2592000"""


class FileUpload(_BatchApiBody):
    """`POST /v1/files`, beside the `file` itself."""

    purpose: Literal["batch", "user_data"]
    """what the file is for: `batch` for the input of a batch, or `user_data`"""
    expires_after: ExpiresAfter | None = None
    """as `expires_after[anchor]` and `expires_after[seconds]`; where not given, the file stays"""


class BatchRequest(_BatchApiBody):
    """`POST /v1/batches`."""

    input_file_id: FileId
    """a file of the purpose `batch`: lines with `custom_id`, `method` (POST), `url` (equal to `endpoint`) and `body`"""
    endpoint: str
    """the route that answers every line, such as `/v1/chat/completions`"""
    completion_window: Literal["24h"]
    """the time after which what is not done yet is given up"""
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None, Field(max_length=16)
    ] = None
    """up to 16 texts for the caller's own use, shown with the batch"""
    output_expires_after: ExpiresAfter | None = None
    """when the files of answers and errors go away; where not given, they stay"""


class FileQuery(_BatchApiBody):
    """`GET /v1/files`."""

    purpose: Literal["batch", "batch_output", "user_data"] | None = None
    """only files of this purpose"""
    limit: FormInt = Field(MAX_LISTED_FILES, ge=1, le=MAX_LISTED_FILES)
    """how many at most"""
    order: Literal["asc", "desc"] = "desc"
    """by the time when they were made"""
    after: FileId | None = None
    """the last file of the page before"""


class BatchQuery(_BatchApiBody):
    """`GET /v1/batches`."""

    limit: FormInt = Field(20, ge=1, le=MAX_LISTED_BATCHES)
    """how many at most"""
    after: FileId | None = None
    """the last batch of the page before"""


def read_query(params: QueryParams, query: type[QueryT]) -> QueryT:
    """Check the parameters of a list; raises `InvalidRequestError`. Others than ours are not looked at."""
    values: dict[str, Any] = {}
    for name, value in params.multi_items():
        if name in values:
            raise InvalidRequestError(f"{name} is there twice.", param=name)
        if name in query.model_fields:
            values[name] = value
    body = validate_body(query, values)
    check_fields(query, values)
    return body
