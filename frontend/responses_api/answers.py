"""The form of what `/v1/responses` answers, for the OpenAPI document; `response.py` and `events.py` build plain dicts.

A model names the fields that every answer has; an answer may have more.
"""

from typing import Any, Literal

from pydantic import BaseModel

from frontend.openai.answers import Timings


class InputTokensDetails(BaseModel):
    """Where the tokens of a prompt came from."""

    cached_tokens: int


class OutputTokensDetails(BaseModel):
    """What the tokens of an answer were for."""

    reasoning_tokens: int


class ResponseUsage(BaseModel):
    """Token counts."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class OutputItem(BaseModel):
    """A message, reasoning, or a call of a function."""

    id: str
    type: Literal["message", "reasoning", "function_call"]
    status: Literal["in_progress", "completed", "incomplete"]


class ResponseObject(BaseModel):
    """Answer of `POST /v1/responses`."""

    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    output: list[OutputItem]
    usage: ResponseUsage | None
    timings: Timings | None = None


class ResponseEvent(BaseModel):
    """Data of an event of a streamed Response, which is named after its type."""

    type: str
    sequence_number: int
