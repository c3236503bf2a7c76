"""Parts of a chat answer as OpenAI writes them: deltas of a stream, and the message of a whole answer.

Invariant: the deltas of a stream, put together, are the message. Used by `chat_completions.py`.
"""

import json
from collections.abc import Iterable
from typing import Any

from frontend.answer_parts import ContentDelta, Part, ReasoningDelta, ToolCallArguments, ToolCallStart


def delta_of(part: Part) -> dict[str, Any]:
    """The `delta` of a chunk."""
    match part:
        case ContentDelta(text):
            return {"content": text}
        case ReasoningDelta(text):
            return {"reasoning_content": text, "reasoning": text}  # DeepSeek's name and vLLM's
        case ToolCallStart(index, call_id, name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}
        case ToolCallArguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def message_of(parts: Iterable[Part]) -> dict[str, Any]:
    """The `message` of a whole answer; without any text its content is null if there are tool calls."""
    contents: list[str] = []
    reasoning: list[str] = []
    calls: dict[int, dict[str, Any]] = {}
    for part in parts:
        match part:
            case ContentDelta(text):
                contents.append(text)
            case ReasoningDelta(text):
                reasoning.append(text)
            case ToolCallStart(index, call_id, name):
                calls[index] = {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
            case ToolCallArguments(index, text):
                calls[index]["function"]["arguments"] += text
    content = "".join(contents)
    message: dict[str, Any] = {"role": "assistant", "content": content or (None if calls else ""), "refusal": None}
    if reasoning:
        message["reasoning_content"] = message["reasoning"] = "".join(reasoning)
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return message


def last_arguments(parts: Iterable[Part], pieces: list[str] | None) -> list[str] | None:
    """Pieces of the arguments of the last call, after these parts; before them they were `pieces`."""
    for part in parts:
        match part:
            case ToolCallStart():
                pieces = []
            case ToolCallArguments(_, text) if pieces is not None:
                pieces.append(text)
            case _:
                pass
    return pieces


def is_json(text: str) -> bool:
    """Whether arguments are complete: a stop string may have cut them off."""
    try:
        json.loads(text, parse_int=str, parse_float=str)  # numbers of any length
    except (ValueError, RecursionError):
        return False
    return True
