"""Files and batches as the database has them, and as the API shows them (OpenAI's objects).

validating ─▶ in_progress ─▶ finalizing ─▶ completed | expired
    │ │             └──────▶ cancelling ─▶ cancelled
    │ └─▶ failed
    └───▶ cancelled
"""

import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

COMPLETION_WINDOW = "24h"
COMPLETION_WINDOW_S = 24 * 3600


class BatchStatus(StrEnum):
    """OpenAI's."""

    VALIDATING = "validating"
    FAILED = "failed"
    """The input has wrong lines; nothing was run."""
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


UNFINISHED = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.CANCELLING)


class Purpose(StrEnum):
    """What a file is for."""

    BATCH = "batch"
    BATCH_OUTPUT = "batch_output"
    USER_DATA = "user_data"


class ResultName(StrEnum):
    """The files that a batch leaves."""

    OUTPUT = "output"
    ERRORS = "errors"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file; times are seconds since the epoch."""

    id: str
    key_id: str
    """Of the API key that it belongs to; empty where there were no keys."""
    created_at: int
    num_bytes: int
    filename: str
    purpose: str
    expires_at: int | None = None

    def as_api(self) -> dict[str, Any]:
        """OpenAI's File."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.num_bytes,
            "created_at": self.created_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
            "expires_at": self.expires_at,
        }


@dataclass(frozen=True, slots=True)
class LineProblem:
    """What is wrong with an input, or why a batch waits."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None
    """Of the input, from 1."""

    def as_api(self) -> dict[str, Any]:
        """OpenAI's BatchError."""
        return {"code": self.code, "message": self.message, "param": self.param, "line": self.line}


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of all answers of a batch."""

    num_input_tokens: int = 0
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    num_reasoning_tokens: int = 0

    def as_api(self) -> dict[str, Any]:
        """OpenAI's BatchUsage."""
        return {
            "input_tokens": self.num_input_tokens,
            "input_tokens_details": {"cached_tokens": self.num_cached_tokens},
            "output_tokens": self.num_output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.num_reasoning_tokens},
            "total_tokens": self.num_input_tokens + self.num_output_tokens,
        }


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch; times are seconds since the epoch."""

    id: str
    key_id: str
    """As in `FileRecord`."""
    endpoint: str
    input_file_id: str
    created_at: int
    expires_at: int
    status: BatchStatus = BatchStatus.VALIDATING
    metadata: dict[str, str] | None = None
    output_expires_after_s: int | None = None
    outcome: BatchStatus = BatchStatus.COMPLETED
    """What it becomes when it is finalized."""
    model: str | None = None
    """That of its first line."""
    problems: list[LineProblem] = field(default_factory=list)
    usage: TokenUsage | None = None
    num_total: int = 0
    num_completed: int = 0
    num_failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None

    def as_api(self) -> dict[str, Any]:
        """OpenAI's Batch."""
        problems = {"object": "list", "data": [problem.as_api() for problem in self.problems]}
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": problems if self.problems else None,
            "input_file_id": self.input_file_id,
            "completion_window": COMPLETION_WINDOW,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            "in_progress_at": self.in_progress_at,
            "expires_at": self.expires_at,
            "finalizing_at": self.finalizing_at,
            "completed_at": self.completed_at,
            "failed_at": self.failed_at,
            "expired_at": self.expired_at,
            "cancelling_at": self.cancelling_at,
            "cancelled_at": self.cancelled_at,
            "request_counts": {
                "total": self.num_total,
                "completed": self.num_completed,
                "failed": self.num_failed,
            },
            "usage": self.usage.as_api() if self.usage is not None else None,
            "metadata": self.metadata,
        }


def new_file_id() -> str:
    """Of an upload."""
    return f"file-{uuid.uuid4().hex}"


def new_batch_id() -> str:
    """Of a batch."""
    return f"batch_{uuid.uuid4().hex}"


def result_file_id(batch_id: str, name: ResultName) -> str:
    """Of one of the files that a batch leaves: always the same, so that an end which was cut off can be repeated."""
    return f"file-{uuid.uuid5(uuid.NAMESPACE_OID, f'{batch_id}/{name}').hex}"
