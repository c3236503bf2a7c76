"""The Response object: what it repeats of the request, and a whole chat completion as its output.

Pure. The items made here are also those of the stream (`events.py`). Invariant: the same answer gives the same Response
whole and streamed, as long as a streamed text does not go on after a call of a function.
"""

from typing import Any

from frontend.output_processor import ABORT
from frontend.responses_api.protocol import ResponsesRequest

ITEM_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


def response_id_of(chat_id: str) -> str:
    """The id of the Response for a chat completion: `chatcmpl-x` becomes `resp_x`."""
    return "resp_" + chat_id.rpartition("-")[2]


def response_base(body: ResponsesRequest, head: dict[str, Any]) -> dict[str, Any]:
    """A Response in progress: the request's own values, and nothing of an answer; `head` is chat's."""
    tools = [
        {
            "type": tool.type,
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
            "strict": tool.strict,
        }
        for tool in body.tools
    ]
    choice = body.tool_choice
    return {
        "id": response_id_of(head["id"]),
        "object": "response",
        "created_at": head["created"],
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata,
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": None,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": body.reasoning.effort, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": head.get("service_tier", "default"),
        "store": False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": body.text.model_dump(by_alias=True, exclude_none=True),
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(exclude_none=True),
        "tools": tools,
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": body.truncation,
        "usage": None,
        "user": body.user,
    }


def whole_response(base: dict[str, Any], completion: dict[str, Any], completed_at: int) -> dict[str, Any]:
    """The Response for a chat completion of one choice."""
    choice = completion["choices"][0]
    message = choice["message"]
    items: list[tuple[str, dict[str, Any]]] = []
    reasoning = message.get("reasoning_content")
    tool_calls = message.get("tool_calls") or ()
    if reasoning:
        items.append(("reasoning", {"text": reasoning}))
    if message["content"] or not (tool_calls or reasoning):
        logprobs = (choice.get("logprobs") or {}).get("content")
        items.append(("message", {"text": message["content"] or "", "logprobs": output_logprobs(logprobs)}))
    items += [
        ("function_call", {"call_id": call["id"], **{key: call["function"][key] for key in ("name", "arguments")}})
        for call in tool_calls
    ]
    last = len(items) - 1
    output = [
        output_item(kind, base["id"], index, item_status(choice["finish_reason"], is_last=index == last), **values)
        for index, (kind, values) in enumerate(items)
    ]
    response = finished_response(base, output, choice["finish_reason"], completion["usage"], completed_at)
    return {**response, "timings": completion["timings"]} if "timings" in completion else response


def finished_response(
    base: dict[str, Any],
    output: list[dict[str, Any]],
    finish_reason: str,
    usage: dict[str, Any],
    completed_at: int,
) -> dict[str, Any]:
    """The Response at its end; finish reason and usage are chat's."""
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(finish_reason)
    status = "cancelled" if finish_reason == ABORT else "incomplete" if reason else "completed"
    return {
        **base,
        "status": status,
        "completed_at": completed_at if status == "completed" else None,
        "incomplete_details": {"reason": reason} if reason else None,
        "output": output,
        "usage": _usage(usage),
    }


def item_status(finish_reason: str, *, is_last: bool) -> str:
    """Only the last item can have been cut off."""
    return "incomplete" if is_last and finish_reason in ("length", "content_filter", ABORT) else "completed"


def item_id(kind: str, response_id: str, index: int) -> str:
    """The id of the item at this place of the output."""
    return f"{ITEM_PREFIXES[kind]}_{response_id.removeprefix('resp_')}_{index}"


def output_item(kind: str, response_id: str, index: int, status: str, **values: Any) -> dict[str, Any]:
    """An item of the output; `values` are those of its kind, and an item without text is one that begins."""
    item = {"id": item_id(kind, response_id, index), "type": kind, "status": status}
    if kind == "function_call":
        return {**item, **values}
    content = [content_part(kind, **values)] if "text" in values else []
    if kind == "reasoning":
        return {**item, "summary": [], "content": content}
    return {**item, "role": "assistant", "content": content}


def content_part(kind: str, *, text: str, logprobs: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """The text of a message or of reasoning, as a part."""
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs or []}


def output_logprobs(content: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Chat's entries, whose bytes are a list also where a token has none of its own."""
    return [
        {**_with_bytes(entry), "top_logprobs": [_with_bytes(top) for top in entry["top_logprobs"]]}
        for entry in content or ()
    ]


def _with_bytes(entry: dict[str, Any]) -> dict[str, Any]:
    return {"token": entry["token"], "logprob": entry["logprob"], "bytes": entry["bytes"] or []}


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": usage["total_tokens"],
    }
