"""Chat templates: a conversation to the text that the model was trained on, in a jinja sandbox.

The environment is that of `transformers` (trimmed blocks, loop controls, `raise_exception`, `strftime_now`, `tojson`
without HTML escapes, `{% generation %}` blocks), so that the models' own templates work unchanged; it is made here
because importing transformers costs a frontend more memory than all the rest. Templates come from the model or the
operator, never from a request. Called by `frontend/input_processor.py`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import orjson

from frontend.openai.protocol import ChatMessage
from ipc.errors import ConfigError, InvalidRequestError, UnsupportedParameterError

FALLBACK_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""For a model without a template: one `role: content` line per message."""

THINKING_SWITCH = "enable_thinking"
"""The variable by which templates are told whether the model should think."""

_RENDER_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)


class ChatTemplate:
    """A compiled template."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile.

        Raises:
            ConfigError: the template has a syntax error, or is nested too deeply.
        """
        try:
            environment = _environment()
            self._template = environment.from_string(source)
            variables = jinja2.meta.find_undeclared_variables(environment.parse(source))
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"chat template, line {error.lineno}: {error.message}") from error
        except RecursionError as error:
            raise ConfigError("the chat template is nested too deeply") from error
        self.source = source
        self.knows_tools = "tools" in variables
        """True if the template writes the tools that it is given."""
        self._special_tokens = dict(special_tokens)
        self._knows_developer = "developer" in source
        self.has_thinking_switch = THINKING_SWITCH in source
        """True if the template can be told whether the model should think."""

    def render(
        self,
        messages: Sequence[ChatMessage],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool,
    ) -> str:
        """The prompt text, with the template's special tokens written out.

        Raises:
            UnsupportedParameterError: a message has a part that is not text.
            InvalidRequestError: the template refuses this conversation, or makes of it what is no Unicode text (half
                of a surrogate pair); `param` is `messages`.
        """
        conversation = [self._message(index, message) for index, message in enumerate(messages)]
        try:
            text = self._template.render(
                messages=conversation,
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
            text.encode()  # the tokenizer takes nothing else
            return text
        except _RENDER_ERRORS as error:
            reason = str(error) if isinstance(error, jinja2.TemplateError) else type(error).__name__
            raise InvalidRequestError(
                f"The chat template refuses these messages: {reason}", param="messages"
            ) from error

    def _message(self, index: int, message: ChatMessage) -> dict[str, Any]:
        role = message.role
        if role == "developer" and not self._knows_developer:
            role = "system"
        rendered: dict[str, Any] = {"role": role, "content": _text_of(index, message)}
        if message.name is not None:
            rendered["name"] = message.name
        if message.tool_call_id is not None:
            rendered["tool_call_id"] = message.tool_call_id
        if message.tool_calls is not None:
            rendered["tool_calls"] = [_with_parsed_arguments(call) for call in message.tool_calls]
        return rendered


def _text_of(index: int, message: ChatMessage) -> str:
    """The content as one text; parts are joined by newlines, as vLLM does."""
    if message.content is None:
        if message.role == "assistant":
            return ""
        param = f"messages.{index}.content"
        raise InvalidRequestError(f"Missing required field: {param}.", param=param, code="missing_required_parameter")
    if isinstance(message.content, str):
        return message.content
    texts = []
    for position, part in enumerate(message.content):
        param = f"messages.{index}.content.{position}"
        if part.type != "text":
            raise UnsupportedParameterError(f"{param}: this model reads only parts of type text.", param=param)
        if part.text is None:
            raise InvalidRequestError(
                f"Missing required field: {param}.text.", param=f"{param}.text", code="missing_required_parameter"
            )
        texts.append(part.text)
    return "\n".join(texts)


def _with_parsed_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call whose arguments are an object, as templates expect, instead of OpenAI's JSON text."""
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = orjson.loads(function["arguments"])  # refuses deep nesting and halves of surrogate pairs
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}


# --- the environment --------------------------------------------------------------------------------------------


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks what the model said, for training; here it is transparent."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The body of the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    functions: dict[str, Callable[..., Any]] = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    environment.globals.update(functions)
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
