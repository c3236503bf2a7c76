"""What `tools` and `tool_choice` mean for one chat completion: what the template shows, the grammar, the parser.

With `none` the model does not see the tools. A call that must come (`required`, a named function, `allowed_tools` with
mode `required`) and its arguments are enforced by a grammar, and schemas that cannot be enforced are refused. Calls
that may come (`auto`) are enforced from their opening tag on, without `strict` as far as their schema can be.
Called by `input_processor.py` and `chat_completions.py`. Next: `frontend/answer_parser/`.
"""

from collections.abc import Sequence
from typing import Any

from frontend.answer_parser.callable_tools import CallableTool, ContentSchema, Thinking, parameters_param
from frontend.answer_parser.formats import call_parser, ends_in_reasoning, may_think, tool_format
from frontend.answer_parser.reasoning import END_OF_THINK_TAG, THINK_TAG, ReasoningParser
from frontend.answer_parser.tool_grammar import tool_grammar
from frontend.answer_parts import AnswerParser
from frontend.openai.grammars import INVALID_SCHEMA, checked_spec, schema_text
from frontend.openai.protocol import ChatCompletionRequest
from frontend.openai.protocol.tools import AllowedToolsChoice, Tool, ToolReference
from frontend.state import ServedModel
from frontend.tokenizer import FrontendTokenizer
from ipc.errors import InvalidRequestError
from ipc.structured_output import GrammarKind, StructuredOutput

_THINKING = {None: Thinking.NEVER, False: Thinking.PERHAPS, True: Thinking.BEGUN}
_NUM_LAST_TOKENS = 8
"""Of a prompt; enough for a tag and whitespace."""


def shown_tools(body: ChatCompletionRequest) -> list[dict[str, Any]]:
    """The tools as the chat template takes them."""
    return [] if body.tool_choice == "none" else tool_values(body.tools)


def tool_values(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The same for any tools."""
    return [
        {"type": "function", "function": tool.function.model_dump(exclude_none=True, exclude={"strict"})}
        for tool in tools
    ]


def call_grammar(model: ServedModel, body: ChatCompletionRequest, prompt_token_ids: Sequence[int]) -> StructuredOutput:
    """The grammar of an answer that may, or must, call a tool.

    Raises:
        InvalidRequestError: a schema exceeds a limit or cannot be enforced.
    """
    tools, is_required = _callable(body)
    template = model.tokenizer.chat_template.source
    thinking = _THINKING[starts_in_reasoning(model, prompt_token_ids)]
    text = tool_grammar(
        tool_format(template),
        tools,
        is_required=is_required,
        is_parallel=body.parallel_tool_calls and not isinstance(body.tool_choice, ToolReference),
        thinking=thinking,
        content=_content_schema(body),
        token_id=model.tokenizer.added_token_id,
    )
    return StructuredOutput(GrammarKind.LARK, checked_spec(text.encode(), "tools"))


def answer_parser(
    model: ServedModel, body: ChatCompletionRequest, prompt_token_ids: Sequence[int]
) -> AnswerParser | None:
    """A parser for one answer to this prompt, or None where its text is its content."""
    template = model.tokenizer.chat_template.source
    calls: AnswerParser | None = None
    if body.may_call_tools:
        calls = call_parser(tool_format(template), {tool.function.name for tool in body.tools})
    starts_inside = starts_in_reasoning(model, prompt_token_ids)
    if starts_inside is None:
        return calls
    return ReasoningParser(calls, starts_inside=starts_inside, is_shown=body.include_reasoning)


def shows_special_tokens(tokenizer: FrontendTokenizer, body: ChatCompletionRequest) -> bool:
    """True where the parser needs tags that are special tokens, which would not be part of the text otherwise."""
    template = tokenizer.chat_template.source
    tags = tool_format(template).tags if body.may_call_tools else ()
    if may_think(template):
        tags += (THINK_TAG, END_OF_THINK_TAG)
    return any(map(tokenizer.is_special, tags))


def starts_in_reasoning(model: ServedModel, prompt_token_ids: Sequence[int]) -> bool | None:
    """Whether a prompt has begun the reasoning of its answer; None where the model does not think."""
    if not may_think(model.tokenizer.chat_template.source):
        return None
    return ends_in_reasoning(model.tokenizer.decode(list(prompt_token_ids[-_NUM_LAST_TOKENS:])))


def _callable(body: ChatCompletionRequest) -> tuple[list[CallableTool], bool]:
    """The tools that may be called, and whether one of them must be."""
    choice = body.tool_choice
    names: set[str] | None = None
    is_required = choice == "required"
    if isinstance(choice, ToolReference):
        names, is_required = {choice.function.name}, True
    elif isinstance(choice, AllowedToolsChoice):
        names = {item.function.name for item in choice.allowed_tools.tools}
        is_required = choice.allowed_tools.mode == "required"
    return [
        _checked_tool(tool, index, is_lenient=not is_required)
        for index, tool in enumerate(body.tools)
        if names is None or tool.function.name in names
    ], is_required


def _checked_tool(tool: Tool, index: int, *, is_lenient: bool) -> CallableTool:
    parameters = tool.function.parameters
    if parameters:
        param = parameters_param(index)
        schema_text(parameters, param)
        if problem := _schema_problem(parameters):
            raise InvalidRequestError(f"{param}: {problem}", param=param, code=INVALID_SCHEMA)
    return CallableTool(tool.function.name, parameters, index, is_lenient=is_lenient and not tool.function.strict)


def _schema_problem(parameters: dict[str, Any]) -> str | None:
    """Why this is not the schema of an object, as far as a grammar needs to know before it is compiled."""
    if parameters.get("type", "object") != "object":
        return "parameters must be the schema of an object"
    if not isinstance(parameters.get("properties", {}), dict):
        return "properties must be an object"
    required = parameters.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        return "required must be a list of names"
    return None


def _content_schema(body: ChatCompletionRequest) -> ContentSchema | None:
    """What an answer without a call must match."""
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.json_schema is None:
        return ContentSchema({"type": "object"})
    schema_text(wanted.json_schema.schema_, "response_format")
    return ContentSchema(wanted.json_schema.schema_, is_lenient=not wanted.json_schema.strict)
