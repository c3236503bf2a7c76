"""From the body of `/v1/messages` to the values of a chat completion's body.

Pure: no model is needed, and whether the values hold is for chat completions to say. Results of tools become messages
of their own, consecutive messages of one role become one, as Anthropic has it, and a conversation that ends with the
assistant is continued. Invariant: what has no counterpart is refused here with the field's own name.
`param_name` leads from chat's names back to ours. Next: `message.py`, the way back.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from frontend.anthropic_api.protocol import (
    AnthropicMessage,
    AnthropicTool,
    ContentBlock,
    MessagesRequest,
    NestedBlock,
    PromptBody,
)
from frontend.chat_template import THINKING_SWITCH
from frontend.chat_translation import required, text_content
from ipc.errors import InvalidRequestError, UnsupportedParameterError

ERROR_PREFIX = "Error: "
"""Begins the result of a tool that failed: chat templates have no other place for it."""
_PARAM_NAMES = {
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
    "user": "metadata.user_id",
    "response_format": "output_config.format",
    "structured_outputs": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "chat_template_kwargs": "thinking",
    "continue_final_message": "messages",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
}
_PASSED_ON = (
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "min_p",
    "ignore_eos",
    "priority",
    "cache_salt",
    "timeout",
    "timings",
)
_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}

Message = dict[str, Any]


def chat_values(body: MessagesRequest, *, can_think: bool) -> dict[str, Any]:
    """The body of the chat completion that answers this request; `can_think` is about the model's template.

    Raises:
        UnsupportedParameterError: a block, a tool or an option that this server cannot honour.
        InvalidRequestError: a block or a tool lacks a field that its type needs.
    """
    values = prompt_values(body, can_think=can_think)
    values["max_completion_tokens"] = body.max_tokens
    for name in _PASSED_ON:
        if getattr(body, name) is not None:
            values[name] = getattr(body, name)
    if body.stop_sequences:
        values["stop"] = body.stop_sequences
    if body.metadata is not None and body.metadata.user_id is not None:
        values["user"] = body.metadata.user_id
    if body.stream:
        values |= {"stream": True, "stream_options": {"include_usage": True}}
    return values


def prompt_values(body: PromptBody, *, can_think: bool) -> dict[str, Any]:
    """The values that decide about the prompt; raises as `chat_values` does."""
    values: dict[str, Any] = {"model": body.model, "messages": _messages(body)}
    if body.messages[-1].role == "assistant":
        if "tool_calls" in values["messages"][-1]:
            raise InvalidRequestError("messages: the result of the last tool use is missing", param="messages")
        values |= {"continue_final_message": True, "add_generation_prompt": False}
    if body.tools:
        values |= _tool_values(body)
    elif body.tool_choice is not None and body.tool_choice.type not in ("auto", "none"):
        raise InvalidRequestError("tool_choice: there are no tools to choose from", param="tool_choice")
    should_think = _should_think(body)
    if can_think:
        values["chat_template_kwargs"] = {THINKING_SWITCH: should_think}
    elif should_think:
        raise UnsupportedParameterError("thinking: this model cannot be told to think.", param="thinking")
    if body.output_config is not None:
        if body.output_config.effort is not None:
            values["reasoning_effort"] = body.output_config.effort
        if body.output_config.format is not None:
            schema = {"name": "output", "schema": body.output_config.format.schema_, "strict": True}
            values["response_format"] = {"type": "json_schema", "json_schema": schema}
    return values


def param_name(chat_param: str) -> str:
    """Our name of a field of a chat completion; a place in chat's messages means nothing here and is left out."""
    head = chat_param.partition(".")[0]
    if head == "tools":
        return chat_param.replace(".function", "").replace(".parameters", ".input_schema")
    return "messages" if head == "messages" else _PARAM_NAMES.get(head, chat_param)


def _should_think(body: PromptBody) -> bool:
    thinking = body.thinking
    if thinking is None:
        return False
    if thinking.type == "between_tools":
        raise UnsupportedParameterError("thinking.type is not supported with this value.", param="thinking.type")
    if thinking.display == "omitted":
        raise UnsupportedParameterError("thinking.display is not supported with this value.", param="thinking.display")
    return thinking.type != "disabled"


# --- messages ---------------------------------------------------------------------------------------------------


def _messages(body: PromptBody) -> list[Message]:
    messages: list[Message] = []
    if body.system is not None:
        texts = [body.system] if isinstance(body.system, str) else list(_texts(body.system, "system"))
        messages.append({"role": "system", "content": text_content(texts)})
    for role, indexes in _turns(body.messages):
        blocks = [block for index in indexes for block in _blocks(body.messages[index], f"messages.{index}.content")]
        messages += _TURNS[role](blocks)
    return messages


def _turns(messages: Sequence[AnthropicMessage]) -> Iterator[tuple[str, list[int]]]:
    """Roles, with the indexes of the messages that follow each other in that role."""
    indexes: list[int] = []
    for index, message in enumerate(messages):
        if indexes and messages[indexes[-1]].role != message.role:
            yield messages[indexes[-1]].role, indexes
            indexes = []
        indexes.append(index)
    yield messages[indexes[-1]].role, indexes


def _blocks(message: AnthropicMessage, param: str) -> list[tuple[str, ContentBlock]]:
    """The blocks of a message, each with its place in the body."""
    if isinstance(message.content, str):
        return [(param, ContentBlock(type="text", text=message.content))]
    return [(f"{param}.{index}", block) for index, block in enumerate(message.content)]


def _system_turn(blocks: list[tuple[str, ContentBlock]]) -> list[Message]:
    return [{"role": "system", "content": text_content([_text(block, param) for param, block in blocks])}]


def _user_turn(blocks: list[tuple[str, ContentBlock]]) -> list[Message]:
    """The results of tools, each a message, and the texts between them."""
    messages: list[Message] = []
    texts: list[str] = []
    for param, block in blocks:
        if block.type != "tool_result":
            texts.append(_text(block, param))
            continue
        if texts:
            messages.append({"role": "user", "content": text_content(texts)})
            texts = []
        messages.append(_tool_result(block, param))
    if texts or not messages:
        messages.append({"role": "user", "content": text_content(texts)})
    return messages


def _tool_result(block: ContentBlock, param: str) -> Message:
    call_id = required(block.tool_use_id, f"{param}.tool_use_id")
    content = block.content or ""
    texts = [content] if isinstance(content, str) else list(_texts(content, f"{param}.content"))
    if block.is_error:
        texts = [ERROR_PREFIX + "".join(texts[:1]), *texts[1:]]
    return {"role": "tool", "tool_call_id": call_id, "content": text_content(texts)}


def _assistant_turn(blocks: list[tuple[str, ContentBlock]]) -> list[Message]:
    """One message; thinking that Anthropic encrypted cannot be read and is left out."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for param, block in blocks:
        if block.type == "thinking":
            thoughts.append(required(block.thinking, f"{param}.thinking"))
        elif block.type == "tool_use":
            calls.append(_tool_call(block, param))
        elif block.type != "redacted_thinking":
            texts.append(_text(block, param))
    message: Message = {"role": "assistant", "content": text_content(texts) if texts or not calls else None}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return [message]


_TURNS = {"system": _system_turn, "user": _user_turn, "assistant": _assistant_turn}


def _tool_call(block: ContentBlock, param: str) -> dict[str, Any]:
    function = {
        "name": required(block.name, f"{param}.name"),
        "arguments": orjson.dumps(required(block.input, f"{param}.input")).decode(),
    }
    return {"id": required(block.id, f"{param}.id"), "type": "function", "function": function}


def _texts(blocks: Sequence[NestedBlock], param: str) -> Iterator[str]:
    for index, block in enumerate(blocks):
        yield _text(block, f"{param}.{index}")


def _text(block: NestedBlock, param: str) -> str:
    if block.type != "text":
        raise UnsupportedParameterError(f"{param}: blocks of this type are not supported here.", param=f"{param}.type")
    return required(block.text, f"{param}.text")


# --- tools ------------------------------------------------------------------------------------------------------


def _tool_values(body: PromptBody) -> dict[str, Any]:
    """`tools`, `tool_choice` and `parallel_tool_calls`."""
    values: dict[str, Any] = {"tools": [_chat_tool(tool, f"tools.{index}") for index, tool in enumerate(body.tools)]}
    choice = body.tool_choice
    if choice is None:
        return values
    if choice.type == "tool":
        name = required(choice.name, "tool_choice.name")
        if name not in {tool.name for tool in body.tools}:
            raise InvalidRequestError("tool_choice.name: no tool has this name", param="tool_choice.name")
        values["tool_choice"] = {"type": "function", "function": {"name": name}}
    else:
        values["tool_choice"] = _TOOL_CHOICES[choice.type]
    values["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return values


def _chat_tool(tool: AnthropicTool, param: str) -> dict[str, Any]:
    if tool.type != "custom":
        raise UnsupportedParameterError(f"{param}: only tools that the client runs are supported.", param=param)
    if tool.defer_loading:
        raise UnsupportedParameterError(f"{param}.defer_loading is not supported.", param=f"{param}.defer_loading")
    function: dict[str, Any] = {"name": tool.name, "parameters": required(tool.input_schema, f"{param}.input_schema")}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}
