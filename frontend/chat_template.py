"""Chat templates: a conversation to the text that the model was trained on, in a sandbox with limits of work.

Templates come from the model or the operator, never from a request. `render` is bounded: `template_meter.py` counts
what the template does and ends it. Called by `frontend/input_processor.py`, in the event loop with a small budget and,
where that is not enough, again in a thread. Next: `template_messages.py`, `template_environment.py`.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.meta
import jinja2.nodes as nodes

from frontend.openai.protocol import ChatMessage
from frontend.render_options import RenderOptions
from frontend.template_environment import METER, ChatTemplateEnvironment
from frontend.template_messages import continued, template_messages
from frontend.template_meter import TemplateLimitError, TemplateMeter
from ipc.errors import ConfigError, InvalidRequestError, UnsupportedParameterError

THINKING_SWITCH = "enable_thinking"
"""The variable by which templates are told whether the model should think."""
MAX_RENDER_S = 1.0
"""Most processor time of one rendering; a single operation on a large value may exceed it."""
MAX_SOURCE_CHARS = 2**20

_RESERVED = frozenset(
    (
        *("messages", "tools", "documents", "chat_template", "tokenize", "add_generation_prompt"),
        *("continue_final_message", "loop", "self", "caller", METER),
    )
)
"""Variables that `chat_template_kwargs` cannot set; nor can it set special tokens."""
_MAX_REASON_CHARS = 500
_RENDER_ERRORS = (
    jinja2.TemplateError,
    TemplateLimitError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)


class ChatTemplate:
    """A compiled template."""

    def __init__(self, source: str, special_tokens: Mapping[str, str], *, max_render_s: float = MAX_RENDER_S) -> None:
        """Compile.

        Raises:
            ConfigError: the template has a syntax error, is nested too deeply, or is too long.
        """
        if len(source) > MAX_SOURCE_CHARS:
            raise ConfigError(f"the chat template has more than {MAX_SOURCE_CHARS} characters")
        try:
            environment = ChatTemplateEnvironment()
            tree = environment.parse(source)
            variables = jinja2.meta.find_undeclared_variables(tree) - environment.globals.keys()
            self._reads_parts = _reads_parts(tree)
            self._template = environment.compile_metered(environment.parse(source))
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"chat template, line {error.lineno}: {error.message}") from error
        except RecursionError as error:
            raise ConfigError("the chat template is nested too deeply") from error
        self.source = source
        self.variables = frozenset(variables)
        """The names that the template reads and does not define."""
        self.knows_tools = "tools" in variables
        """True if the template writes the tools that it is given."""
        self._special_tokens = dict(special_tokens)
        self._kwargs = self.variables - _RESERVED - special_tokens.keys()
        self.has_thinking_switch = THINKING_SWITCH in self._kwargs
        """True if the template can be told whether the model should think."""
        self._knows_developer = "developer" in source
        self._max_render_s = max_render_s

    def render(self, messages: Sequence[ChatMessage], options: RenderOptions, *, max_units: int | None = None) -> str:
        """The prompt text, with the template's special tokens written out.

        Raises:
            UnsupportedParameterError: a message has a part that is not text, or the template does not know an option.
            InvalidRequestError: the template refuses this conversation, takes too long, or makes of it what is no
                Unicode text (half of a surrogate pair); `param` is `messages`.
            TemplateBudgetError: `max_units` of work were not enough.
        """
        meter = TemplateMeter(self._max_render_s, max_units)
        variables = self._variables(options)
        values = template_messages(messages, knows_developer=self._knows_developer, has_parts=self._reads_parts)
        marker = ""
        if options.continue_final_message:
            marker = f"<continued {secrets.token_hex(8)}> "
            continued(values[-1], marker)
        try:
            text = self._template.render(variables | {"messages": values, METER: meter})
            text.encode()  # the tokenizer takes nothing else
        except _RENDER_ERRORS as error:
            raise _refusal(error) from error
        return _cut(text, marker) if marker else text

    def _variables(self, options: RenderOptions) -> dict[str, Any]:
        for name in options.template_kwargs:
            if name not in self._kwargs:
                param = f"chat_template_kwargs.{name}"
                raise UnsupportedParameterError("The model's chat template has no such variable.", param=param)
        for name, values in (("tools", options.tools), ("documents", options.documents)):
            if values and name not in self.variables:
                raise UnsupportedParameterError(f"The model's chat template knows no {name}.", param=name)
        variables: dict[str, Any] = {
            **self._special_tokens,
            **options.template_kwargs,
            "tools": options.tools or None,
            "documents": options.documents or None,
            "add_generation_prompt": options.add_generation_prompt,
        }
        if options.reasoning_effort is not None:
            if options.template_kwargs.get("reasoning_effort", options.reasoning_effort) != options.reasoning_effort:
                raise InvalidRequestError(
                    "reasoning_effort and chat_template_kwargs differ", param="chat_template_kwargs.reasoning_effort"
                )
            variables["reasoning_effort"] = options.reasoning_effort
        return variables


def _refusal(error: Exception) -> InvalidRequestError:
    shows_reason = isinstance(error, jinja2.TemplateError | TemplateLimitError)
    reason = str(error)[:_MAX_REASON_CHARS] if shows_reason else type(error).__name__
    return InvalidRequestError(f"The chat template refuses these messages: {reason}", param="messages")


def _cut(text: str, marker: str) -> str:
    """The text up to the marker; without the blanks before it where the template trims what a message says."""
    position = text.rfind(marker.strip())
    if position < 0:
        raise InvalidRequestError(
            "continue_final_message: the chat template leaves out the text of the last message",
            param="continue_final_message",
        )
    is_trimmed = not text.startswith(marker, position)
    return text[:position].rstrip() if is_trimmed else text[:position]


def _reads_parts(tree: nodes.Template) -> bool:
    """True for templates that go through the parts of a content and never take it as a text."""
    is_looped = any(_is_content(loop.iter) for loop in tree.find_all(nodes.For))
    return is_looped and not any(test.name == "string" and _is_content(test.node) for test in tree.find_all(nodes.Test))


def _is_content(node: nodes.Node) -> bool:
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == "content"
