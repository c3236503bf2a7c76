"""The messages of a conversation; `frontend/chat_template.py` writes them as text."""

from typing import Annotated, Any, Literal

from pydantic import Field

from frontend.openai.protocol.body import Body

MAX_MESSAGES = 4096
MAX_CONTENT_PARTS = 1024
MAX_TOOL_CALLS = 1024


class ContentPart(Body):
    """A part of a message; only text can be read."""

    type: str
    text: str | None = None


ContentParts = Annotated[list[ContentPart], Field(fail_fast=True, max_length=MAX_CONTENT_PARTS)]
ToolCalls = Annotated[list[dict[str, Any]], Field(fail_fast=True, max_length=MAX_TOOL_CALLS)]


class ChatMessage(Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | ContentParts | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: ToolCalls | None = None


Messages = Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
