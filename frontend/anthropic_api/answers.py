"""The form of what Anthropic's routes answer, for the OpenAPI document; `message.py` and others build plain dicts.

A model names the fields that every answer has; an answer may have more.
"""

from typing import Any, Literal

from pydantic import BaseModel

from frontend.openai.answers import Timings


class MessageUsage(BaseModel):
    """Token counts; `input_tokens` leaves out what came from the cache."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class MessageObject(BaseModel):
    """Answer of `POST /v1/messages`."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"] | None
    stop_sequence: str | None
    usage: MessageUsage
    timings: Timings | None = None


class MessageEvent(BaseModel):
    """Data of an event of a streamed Message, which is named after its type."""

    type: Literal[
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
    ]


class TokenCount(BaseModel):
    """Answer of `POST /v1/messages/count_tokens`."""

    input_tokens: int


class AnthropicError(BaseModel):
    """What went wrong."""

    type: str
    message: str
    param: str | None
    code: str


class AnthropicErrorEnvelope(BaseModel):
    """Every answer of Anthropic's routes that is no success."""

    type: Literal["error"]
    error: AnthropicError
    request_id: str | None
