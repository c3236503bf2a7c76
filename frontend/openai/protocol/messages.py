"""The messages of a conversation; `frontend/template_messages.py` makes of them what a chat template reads.

Only text can be read: other parts, custom tool calls and OpenAI's older function calls are `unsupported_parameter`.
"""

from typing import Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator, BeforeValidator, Field, SkipValidation, model_validator
from pydantic_core import PydanticCustomError

from frontend.openai.protocol.body import UNSUPPORTED, Body

MAX_MESSAGES = 4096
MAX_CONTENT_PARTS = 1024
MAX_TOOL_CALLS = 1024

Role = Literal["system", "developer", "user", "assistant", "tool"]


def _check_role(role: Any) -> Any:
    if role == "function":
        raise PydanticCustomError(UNSUPPORTED, "messages of the older role function are not supported; use tool")
    return role


def _check_call_type(call_type: Any) -> Any:
    if isinstance(call_type, str) and call_type != "function":
        raise PydanticCustomError(UNSUPPORTED, "only calls of type function are supported")
    return call_type


def _refuse(_: Any) -> NoReturn:
    raise PydanticCustomError(UNSUPPORTED, "is not supported in a message")


def _check_arguments(arguments: Any) -> str | dict[str, Any]:
    """An object is left as it is: its values are for the template, and walking through them costs."""
    if not isinstance(arguments, str | dict):
        raise PydanticCustomError("arguments_type", "must be JSON text, or an object")
    return arguments


class ContentPart(Body):
    """A part of a message; only text can be read."""

    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(Body):
    """What a tool call calls."""

    name: str
    arguments: Annotated[str | dict[str, Any], SkipValidation, AfterValidator(_check_arguments)] = ""


class MessageToolCall(Body):
    """A call that an assistant made."""

    id: str | None = None
    type: Annotated[Literal["function"], BeforeValidator(_check_call_type)] = "function"
    function: CalledFunction


ContentParts = Annotated[list[ContentPart], Field(fail_fast=True, max_length=MAX_CONTENT_PARTS)]
ToolCalls = Annotated[list[MessageToolCall], Field(fail_fast=True, max_length=MAX_TOOL_CALLS)]
Refused = Annotated[Any, SkipValidation, AfterValidator(_refuse)]


class ChatMessage(Body):
    """One message of a conversation."""

    role: Annotated[Role, BeforeValidator(_check_role)]
    content: str | ContentParts | None = None
    refusal: str | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_call_id: str | None = None
    tool_calls: ToolCalls | None = None
    function_call: Refused = None
    audio: Refused = None

    @model_validator(mode="after")
    def _check_reasoning(self) -> "ChatMessage":
        if self.reasoning is not None and self.reasoning_content not in (None, self.reasoning):
            raise ValueError("reasoning and reasoning_content are two names of one thing, but they differ")
        return self


Messages = Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
