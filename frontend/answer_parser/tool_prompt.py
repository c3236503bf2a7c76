"""Tools as text, for models whose chat template does not know them: a system message in hermes' form.

The conversation's own calls and results become text in the same form. Called by `frontend/input_processor.py`.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from frontend.openai.protocol import ChatMessage, ContentPart

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
    rendered = [_as_text(message) for message in messages]
    if not tools:
        return rendered
    introduction = _INTRODUCTION.format(tools="\n".join(orjson.dumps(tool).decode() for tool in tools))
    first = rendered[0]
    if first.role in ("system", "developer"):
        content = f"{_text(first)}\n\n{introduction}"
        return [first.model_copy(update={"content": content}), *rendered[1:]]
    return [ChatMessage(role="system", content=introduction), *rendered]


def _as_text(message: ChatMessage) -> ChatMessage:
    if message.role == "tool":
        content = f"<tool_response>\n{_text(message)}\n</tool_response>"
        return ChatMessage(role="user", content=content)
    if message.tool_calls:
        calls = [_call_text(call) for call in message.tool_calls]
        content = "\n".join([_text(message), *calls] if _text(message) else calls)
        return message.model_copy(update={"content": content, "tool_calls": None})
    return message


def _call_text(call: Any) -> str:
    values = call if isinstance(call, dict) else call.model_dump()
    function = values.get("function") or {}
    name = orjson.dumps(function.get("name", "")).decode()
    arguments = function.get("arguments") or "{}"
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    return f'<tool_call>\n{{"name": {name}, "arguments": {text}}}\n</tool_call>'


def _text(message: ChatMessage) -> str:
    if isinstance(message.content, list):
        return "\n".join(part.text or "" for part in message.content if isinstance(part, ContentPart))
    return message.content or ""
