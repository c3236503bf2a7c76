"""The Message object: a whole chat completion in Anthropic's form.

Pure. `stop_fields` and `usage_of` serve the stream (`events.py`) too.
"""

from typing import Any

import orjson

from frontend.errors import RequestCancelledError
from frontend.output_processor import ABORT
from ipc.errors import RequestFailedError

_STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def message_id_of(chat_id: str) -> str:
    """The id of the Message for a chat completion: `chatcmpl-x` becomes `msg_x`."""
    return "msg_" + chat_id.rpartition("-")[2]


def message_base(message_id: str, model: str) -> dict[str, Any]:
    """A Message without an answer."""
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def whole_message(completion: dict[str, Any]) -> dict[str, Any]:
    """The Message for a chat completion of one choice.

    A use of a tool that `max_tokens` cut off has no input that could be read, and is left out.

    Raises:
        RequestCancelledError: as `stop_fields`.
        RequestFailedError: the input of a tool that was not cut off is no JSON object.
    """
    choice = completion["choices"][0]
    message, stop = choice["message"], stop_fields(choice)
    content: list[dict[str, Any]] = []
    if message.get("reasoning_content"):
        content.append({"type": "thinking", "thinking": message["reasoning_content"], "signature": ""})
    if message["content"]:
        content.append({"type": "text", "text": message["content"], "citations": None})
    for call in message.get("tool_calls") or ():
        tool_input = _tool_input(call["function"]["arguments"])
        if tool_input is not None:
            content.append(
                {"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": tool_input}
            )
        elif choice["finish_reason"] != "length":
            raise RequestFailedError("the input of a tool is no JSON object", code="invalid_tool_call")
    whole = {
        **message_base(message_id_of(completion["id"]), completion["model"]),
        "content": content,
        **stop,
        "usage": usage_of(completion["usage"]),
    }
    return {**whole, "timings": completion["timings"]} if "timings" in completion else whole


def stop_fields(choice: dict[str, Any]) -> dict[str, Any]:
    """Why a choice ended: `stop_reason`, and the `stop_sequence` that was found.

    Raises:
        RequestCancelledError: it was cancelled by its id, for which Anthropic's API has no reason.
    """
    if choice["finish_reason"] == ABORT:
        raise RequestCancelledError()
    stopped_by = choice.get("stop_reason")
    if choice["finish_reason"] == "stop" and isinstance(stopped_by, str):
        return {"stop_reason": "stop_sequence", "stop_sequence": stopped_by}
    return {"stop_reason": _STOP_REASONS.get(choice["finish_reason"], "end_turn"), "stop_sequence": None}


def usage_of(usage: dict[str, Any]) -> dict[str, Any]:
    """Chat's token counts; Anthropic counts what came from the cache apart from the other input."""
    num_cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    num_thinking = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
    return {
        "input_tokens": usage["prompt_tokens"] - num_cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": num_cached,
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"thinking_tokens": num_thinking},
        "service_tier": "standard",
    }


def _tool_input(arguments: str) -> dict[str, Any] | None:
    try:
        value = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
