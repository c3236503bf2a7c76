"""The form of what `/v1/files` and `/v1/batches` answer, for the OpenAPI document; `records.py` builds the answers."""

from typing import Literal

from pydantic import BaseModel

from frontend.batch_api.records import BatchStatus, Purpose


class FileObject(BaseModel):
    """A file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: Purpose
    status: Literal["processed"]
    status_details: str | None
    expires_at: int | None


class _Page(BaseModel):
    object: Literal["list"]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileList(_Page):
    """A page of files."""

    data: list[FileObject]


class FileDeleted(BaseModel):
    """Answer of `DELETE /v1/files/{id}`."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class BatchProblem(BaseModel):
    """A wrong line, or why a batch waits."""

    code: str
    message: str
    param: str | None
    line: int | None


class BatchProblems(BaseModel):
    """What is wrong."""

    object: Literal["list"]
    data: list[BatchProblem]


class RequestCounts(BaseModel):
    """How far a batch is."""

    total: int
    completed: int
    failed: int


class CachedTokens(BaseModel):
    """Of the input."""

    cached_tokens: int


class ReasoningTokens(BaseModel):
    """Of the output."""

    reasoning_tokens: int


class BatchUsage(BaseModel):
    """Tokens of all answers."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class BatchObject(BaseModel):
    """A batch."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: BatchProblems | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage | None
    metadata: dict[str, str] | None


class BatchList(_Page):
    """A page of batches."""

    data: list[BatchObject]
