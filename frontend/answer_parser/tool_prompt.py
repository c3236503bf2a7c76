"""Tools as text, for models whose chat template does not know them: a system message in hermes' form.

The conversation's own calls and results become text in the same form. Called by `frontend/input_processor.py`.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from frontend.openai.protocol import ChatMessage, MessageToolCall
from frontend.template_messages import message_text, template_arguments

_INTRODUCTION = """You can call these functions, each described by a line of JSON:
<tools>
{tools}
</tools>
To call one, write its name and its arguments as JSON between these tags, and nothing after them:
<tool_call>
{{"name": "the function's name", "arguments": {{…}}}}
</tool_call>
Its result comes back between <tool_response> and </tool_response>."""


def with_tool_texts(messages: Sequence[ChatMessage], tools: Sequence[dict[str, Any]]) -> list[ChatMessage]:
    """The conversation without anything that only a template with tools can write."""
    rendered = [_as_text(message, f"messages.{index}") for index, message in enumerate(messages)]
    if not tools:
        return rendered
    introduction = _INTRODUCTION.format(tools="\n".join(orjson.dumps(tool).decode() for tool in tools))
    first = rendered[0]
    if first.role in ("system", "developer"):
        content = f"{message_text(first, 'messages.0')}\n\n{introduction}"
        return [first.model_copy(update={"content": content}), *rendered[1:]]
    return [ChatMessage(role="system", content=introduction), *rendered]


def _as_text(message: ChatMessage, param: str) -> ChatMessage:
    text = message_text(message, param)  # refuses here what has no text: later the places may be others
    if message.role == "tool":
        content = f"<tool_response>\n{text}\n</tool_response>"
        return ChatMessage(role="user", content=content)
    if message.tool_calls:
        calls = [_call_text(call) for call in message.tool_calls]
        content = "\n".join([text, *calls] if text else calls)
        return message.model_copy(update={"content": content, "tool_calls": None})
    return message


def _call_text(call: MessageToolCall) -> str:
    name = orjson.dumps(call.function.name).decode()
    arguments = template_arguments(call.function.arguments)
    return f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'
