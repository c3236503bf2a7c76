"""From the body of `/v1/responses` to the values of a chat completion's body.

Pure: no model is needed, and whether the values hold is for chat completions to say. Items become messages: a call of
a function joins the assistant's message before it, reasoning the one after it.
Invariant: what has no counterpart is refused here with the field's own name; nothing is dropped but reasoning without
text. `param_name` leads from chat's names back to ours. Next: `response.py`, the way back.
"""

from collections.abc import Sequence
from typing import Any

from frontend.chat_translation import required, text_content, without_nulls
from frontend.responses_api.protocol import InputItem, InputPart, ResponsesRequest, ResponseTool
from ipc.errors import InvalidRequestError, UnsupportedParameterError

LOGPROBS_INCLUDE = "message.output_text.logprobs"
_PARAM_NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "structured_outputs": "text.format",
    "logprobs": "top_logprobs",
    "reasoning_effort": "reasoning.effort",
}
_PASSED_ON = (
    "temperature",
    "top_p",
    "service_tier",
    "user",
    "seed",
    "stop",
    "top_k",
    "min_p",
    "ignore_eos",
    "priority",
    "cache_salt",
    "timeout",
    "timings",
)
_TEXT_PART_TYPES = frozenset({"input_text", "output_text", "text", "reasoning_text", "summary_text"})

Message = dict[str, Any]


def chat_values(body: ResponsesRequest) -> dict[str, Any]:
    """The body of the chat completion that answers this request.

    Raises:
        UnsupportedParameterError: an item, a tool or an option that this server cannot honour.
        InvalidRequestError: an item or a tool lacks a field that its type needs.
    """
    _check_options(body)
    values: dict[str, Any] = {"model": body.model, "messages": _messages(body)}
    for name in _PASSED_ON:
        if getattr(body, name) is not None:
            values[name] = getattr(body, name)
    if body.max_output_tokens is not None:
        values["max_completion_tokens"] = body.max_output_tokens
    if LOGPROBS_INCLUDE in body.include or body.top_logprobs is not None:
        values |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    if body.reasoning.effort is not None:
        values["reasoning_effort"] = body.reasoning.effort
    if body.text.format.type != "text":
        values["response_format"] = _response_format(body)
    if body.tools:
        values |= _tool_values(body)
    elif body.tool_choice not in ("none", "auto"):
        raise InvalidRequestError("tool_choice: there are no tools to choose from", param="tool_choice")
    if body.stream:
        values |= {"stream": True, "stream_options": {"include_usage": True}}
    return values


def param_name(chat_param: str) -> str:
    """Our name of a field of a chat completion; a place in chat's messages means nothing here and is left out."""
    head = chat_param.partition(".")[0]
    if head == "tools":
        return chat_param.replace(".function", "")
    return _PARAM_NAMES.get(head, chat_param)


def _check_options(body: ResponsesRequest) -> None:
    for name in body.include:
        if name != LOGPROBS_INCLUDE:
            raise UnsupportedParameterError(f"include: only {LOGPROBS_INCLUDE} is supported.", param="include")
    if body.truncation != "disabled":
        raise UnsupportedParameterError(
            "truncation is not supported: an input that is too long is refused.", param="truncation"
        )
    if body.text.verbosity not in (None, "medium"):
        raise UnsupportedParameterError("text.verbosity is not supported with this value.", param="text.verbosity")
    if body.stream_options is not None and body.stream_options.include_obfuscation:
        param = "stream_options.include_obfuscation"
        raise UnsupportedParameterError(f"{param} is not supported with this value.", param=param)
    neutral = {
        "summary": (None, "auto"),  # leaves it to the server, which sends the reasoning itself
        "generate_summary": (None, "auto"),
        "mode": (None, "standard"),
        "context": (None, "auto"),
    }
    for name, harmless in neutral.items():
        if getattr(body.reasoning, name) not in harmless:
            param = f"reasoning.{name}"
            raise UnsupportedParameterError(f"{param} is not supported with this value.", param=param)


# --- messages ---------------------------------------------------------------------------------------------------


def _messages(body: ResponsesRequest) -> list[Message]:
    messages: list[Message] = []
    if body.instructions is not None:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        messages.append({"role": "user", "content": body.input})
        return messages
    for index, item in enumerate(body.input):
        _add_item(messages, item, f"input.{index}")
    return [message for message in messages if not _is_lone_reasoning(message)]


def _add_item(messages: list[Message], item: InputItem, param: str) -> None:
    match item.type:
        case "message":
            content = _content(item.content, f"{param}.content")
            role = required(item.role, f"{param}.role")
            if role == "assistant" and messages and _is_lone_reasoning(messages[-1]):
                messages[-1]["content"] = content
            else:
                messages.append({"role": role, "content": content})
        case "function_call":
            _assistant_message(messages).setdefault("tool_calls", []).append(_tool_call(item, param))
        case "function_call_output":
            output = _content(item.output, f"{param}.output")
            call_id = required(item.call_id, f"{param}.call_id")
            messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
        case "reasoning":
            content = _content(item.content or "", f"{param}.content")
            text = content if isinstance(content, str) else "\n".join(part["text"] for part in content)
            if text:
                messages.append({"role": "assistant", "content": None, "reasoning_content": text})
        case _:
            raise UnsupportedParameterError(f"{param}: items of this type are not supported.", param=f"{param}.type")


def _is_lone_reasoning(message: Message) -> bool:
    return message["role"] == "assistant" and message["content"] is None and "tool_calls" not in message


def _assistant_message(messages: list[Message]) -> Message:
    """The assistant's message that calls belong to; a new one after anything else."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    return messages[-1]


def _tool_call(item: InputItem, param: str) -> dict[str, Any]:
    function = {
        "name": required(item.name, f"{param}.name"),
        "arguments": required(item.arguments, f"{param}.arguments"),
    }
    return {"id": required(item.call_id, f"{param}.call_id"), "type": "function", "function": function}


def _content(content: str | Sequence[InputPart] | None, param: str) -> str | list[dict[str, Any]]:
    """Text, or the texts of the parts; a single one needs no list."""
    if isinstance(content, str):
        return content
    content = required(content, param)
    return text_content([_part_text(part, f"{param}.{index}") for index, part in enumerate(content)])


def _part_text(part: InputPart, param: str) -> str:
    if part.type == "refusal":
        return required(part.refusal, f"{param}.refusal")
    if part.type not in _TEXT_PART_TYPES:
        raise UnsupportedParameterError(f"{param}: this model reads only parts with text.", param=f"{param}.type")
    return required(part.text, f"{param}.text")


# --- tools and formats ------------------------------------------------------------------------------------------


def _response_format(body: ResponsesRequest) -> dict[str, Any]:
    given = body.text.format
    if given.type != "json_schema":
        return {"type": given.type}
    schema = {
        "name": required(given.name, "text.format.name"),
        "schema": required(given.schema_, "text.format.schema"),
        "description": given.description,
        "strict": given.strict,
    }
    return {"type": "json_schema", "json_schema": without_nulls(schema)}


def _tool_values(body: ResponsesRequest) -> dict[str, Any]:
    """`tools`, `tool_choice` and `parallel_tool_calls`."""
    tools = [_chat_tool(tool, f"tools.{index}") for index, tool in enumerate(body.tools)]
    names = {tool["function"]["name"] for tool in tools}
    choice: Any = body.tool_choice
    if not isinstance(choice, str):
        if choice.type == "function":
            name = _known_name(choice.name, names, "tool_choice.name")
            choice = {"type": "function", "function": {"name": name}}
        elif choice.type == "allowed_tools":
            allowed = _allowed_names(body, names)
            tools = [tool for tool in tools if tool["function"]["name"] in allowed]
            choice = required(choice.mode, "tool_choice.mode")
        else:
            raise UnsupportedParameterError("tool_choice: only functions can be chosen.", param="tool_choice.type")
    return {"tools": tools, "tool_choice": choice, "parallel_tool_calls": body.parallel_tool_calls}


def _allowed_names(body: ResponsesRequest, names: set[str]) -> set[str]:
    assert not isinstance(body.tool_choice, str)
    given = body.tool_choice.tools
    if not given:
        raise InvalidRequestError("tool_choice.tools must not be empty", param="tool_choice.tools")
    allowed = set()
    for index, tool in enumerate(given):
        param = f"tool_choice.tools.{index}"
        if tool.type != "function":
            raise UnsupportedParameterError(f"{param}: only functions are supported.", param=f"{param}.type")
        allowed.add(_known_name(tool.name, names, f"{param}.name"))
    return allowed


def _known_name(name: str | None, names: set[str], param: str) -> str:
    known = required(name, param)
    if known not in names:
        raise InvalidRequestError(f"{param}: no tool has this name", param=param)
    return known


def _chat_tool(tool: ResponseTool, param: str) -> dict[str, Any]:
    if tool.type != "function":
        raise UnsupportedParameterError(f"{param}: only functions are supported.", param=f"{param}.type")
    for name, is_set in (("defer_loading", tool.defer_loading), ("async", tool.is_async)):
        if is_set:
            raise UnsupportedParameterError(f"{param}.{name} is not supported.", param=f"{param}.{name}")
    function = {
        "name": required(tool.name, f"{param}.name"),
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict,
    }
    return {"type": "function", "function": without_nulls(function)}
