"""From the messages of a body to what chat templates read: dicts with the names that `transformers` uses.

Contents become one text, or a list of parts where the template reads nothing else; arguments of tool calls become
objects; reasoning has all three names that templates know. Invariant: what a message says is in its dict, or the
request is refused. Called by `chat_template.py`.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from frontend.openai.protocol import ChatMessage, ContentPart, MessageToolCall
from ipc.errors import InvalidRequestError, UnsupportedParameterError

CONTINUED = "content of the message to continue"
REASONING_NAMES = ("reasoning_content", "reasoning", "thinking")


class ToolArguments(dict[str, Any]):
    """The arguments of a tool call: an object for templates that read it, its JSON for those that write it as text."""

    __slots__ = ("_text",)

    def __init__(self, values: dict[str, Any], text: str) -> None:
        super().__init__(values)
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __add__(self, other: object) -> str:
        return self._text + other if isinstance(other, str) else NotImplemented

    def __radd__(self, other: object) -> str:
        return other + self._text if isinstance(other, str) else NotImplemented


def template_messages(
    messages: Sequence[ChatMessage], *, knows_developer: bool, has_parts: bool
) -> list[dict[str, Any]]:
    """The messages as a template reads them.

    Raises:
        UnsupportedParameterError: a part is not text.
        InvalidRequestError: a content or the text of a part is missing.
    """
    return [
        _template_message(message, f"messages.{index}", knows_developer=knows_developer, has_parts=has_parts)
        for index, message in enumerate(messages)
    ]


def continued(message: dict[str, Any], marker: str) -> str:
    """Put a marker behind the text of a message; returns the text.

    Raises:
        InvalidRequestError: there is no text that could go on.
    """
    content = message["content"]
    if message.get("tool_calls") or not content:
        reason = "has tool calls" if message.get("tool_calls") else "has no text"
        raise InvalidRequestError(
            f"continue_final_message: the last message {reason}, so it cannot go on", param="continue_final_message"
        )
    if isinstance(content, str):
        message["content"] = content + marker
        return content
    text: str = content[-1]["text"]
    content[-1]["text"] = text + marker
    return text


def _template_message(message: ChatMessage, param: str, *, knows_developer: bool, has_parts: bool) -> dict[str, Any]:
    role = "system" if message.role == "developer" and not knows_developer else message.role
    text = message_text(message, param)
    content: str | list[dict[str, str]] = text
    if has_parts:
        texts = [text] if isinstance(message.content, str) or not text else _texts(message, f"{param}.content")
        content = [{"type": "text", "text": text} for text in texts if text]
    values: dict[str, Any] = {"role": role, "content": content}
    if message.name is not None:
        values["name"] = message.name
    reasoning = message.reasoning_content if message.reasoning_content is not None else message.reasoning
    if reasoning is not None:
        values |= dict.fromkeys(REASONING_NAMES, reasoning)
    if message.tool_call_id is not None:
        values["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        values["tool_calls"] = [_template_call(call) for call in message.tool_calls]
    return values


def message_text(message: ChatMessage, param: str) -> str:
    """The content as one text; `param` names the message. Raises as `template_messages` does."""
    return message.content if isinstance(message.content, str) else "\n".join(_texts(message, f"{param}.content"))


def _texts(message: ChatMessage, param: str) -> list[str]:
    """The texts of a content that is no text itself; parts are joined by newlines, as vLLM does."""
    if isinstance(message.content, list):
        return [_part_text(part, f"{param}.{index}") for index, part in enumerate(message.content)]
    if message.refusal is not None:
        return [message.refusal]
    if message.role == "assistant":
        return []
    raise InvalidRequestError(f"Missing required field: {param}.", param=param, code="missing_required_parameter")


def _part_text(part: ContentPart, param: str) -> str:
    if part.type not in ("text", "refusal"):
        raise UnsupportedParameterError(f"{param}: this model reads only parts of type text.", param=param)
    text = part.text if part.type == "text" else part.refusal
    if text is None:
        param = f"{param}.{part.type}"
        raise InvalidRequestError(f"Missing required field: {param}.", param=param, code="missing_required_parameter")
    return text


def _template_call(call: MessageToolCall) -> dict[str, Any]:
    values: dict[str, Any] = {
        "type": call.type,
        "function": {"name": call.function.name, "arguments": template_arguments(call.function.arguments)},
    }
    return values if call.id is None else {"id": call.id, **values}


def template_arguments(arguments: str | dict[str, Any]) -> ToolArguments | str:
    """What is no JSON object stays the text that it is: a model may have written it, and so it was said."""
    if isinstance(arguments, dict):
        try:
            return ToolArguments(arguments, orjson.dumps(arguments).decode())
        except orjson.JSONEncodeError as error:
            raise InvalidRequestError("arguments of a tool call are nested too deeply", param="messages") from error
    if not arguments:
        return ToolArguments({}, "{}")
    try:
        values = orjson.loads(arguments)  # refuses deep nesting and halves of surrogate pairs
    except ValueError:
        return arguments
    return ToolArguments(values, arguments) if isinstance(values, dict) else arguments
