"""The body of `POST /v1/responses`, with OpenAI's field names.

Checked as strictly as the other bodies (`frontend/openai/protocol.py`). Items, parts and tools are records with all
fields of all kinds; which kinds there are, and what each needs, is for `chat_values`. The server keeps no answers, so
what refers to one (`previous_response_id`, `conversation`, …) is in `UNSUPPORTED`. Next: `chat_values.py`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from frontend.openai.protocol.body import Body
from frontend.openai.protocol.generation import MAX_INT32, Metadata, StopStrings
from frontend.openai.protocol.messages import MAX_CONTENT_PARTS, MAX_MESSAGES
from frontend.openai.unsupported import Unsupported
from ipc.sampling_params import MAX_LOGPROBS

MAX_TOOLS = 128
MAX_INCLUDES = 16

UNSUPPORTED: dict[str, Unsupported] = {
    "access_programs": Unsupported((), "access to restricted models"),
    "background": Unsupported((False,), "answers that are fetched later"),
    "background_options": Unsupported((), "answers that are fetched later"),
    "context_management": Unsupported(([],), "shortening the conversation"),
    "conversation": Unsupported((), "conversations that the server keeps"),
    "image": Unsupported((), "images"),
    "moderation": Unsupported((), "moderation"),
    "previous_response_id": Unsupported((), "answers that the server keeps"),
    "prompt": Unsupported((), "prompts that the server keeps"),
    "store": Unsupported((False,), "keeping the answer"),
}
HARMLESS: dict[str, str] = {
    "prompt_cache_options": "the prefix cache needs no hint",
    "prompt_cache_retention": "the prefix cache needs no hint",
}


class InputPart(Body):
    """A part of a message or of a tool's output."""

    type: str
    text: str | None = None
    refusal: str | None = None
    annotations: Any = None
    """Of an answer that is sent back; changes nothing, like the next one."""
    logprobs: Any = None


Parts = Annotated[list[InputPart], Field(fail_fast=True, max_length=MAX_CONTENT_PARTS)]


class InputItem(Body):
    """One item of the input: a message, a call of a function, its output, or reasoning."""

    type: str = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | Parts | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | Parts | None = None
    id: str | None = None
    """Of an answer that is sent back; changes nothing, like all that follow."""
    status: str | None = None
    summary: Any = None
    encrypted_content: str | None = None
    phase: str | None = None


class TextFormat(Body):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextConfig(Body):
    """How the answer's text should be."""

    format: TextFormat = Field(default_factory=TextFormat)
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(Body):
    """How much the model should think before it answers."""

    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    mode: str | None = None
    context: str | None = None


class ResponseTool(Body):
    """A tool that the model may call; only functions are possible here."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool = False
    is_async: bool = Field(default=False, alias="async")


class NamedTool(Body):
    """A reference to a tool of the body."""

    type: str
    name: str | None = None


class ToolChoiceObject(Body):
    """A choice of tool with details."""

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: Annotated[list[NamedTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None


class ResponseStreamOptions(Body):
    """What a stream contains besides the events."""

    include_obfuscation: bool = False


_FIELDS_OF_CHAT = {
    name: Unsupported((), "a field of chat completions")
    for name in ("max_tokens", "max_completion_tokens", "messages", "response_format", "reasoning_effort")
}
"""What clients send to the wrong endpoint, and would miss."""


class ResponsesRequest(Body):
    """Body of `POST /v1/responses`."""

    unsupported_parameters: ClassVar[Mapping[str, Unsupported]] = UNSUPPORTED | _FIELDS_OF_CHAT
    harmless_parameters: ClassVar[Mapping[str, str]] = HARMLESS

    model: str
    """Name of the served model."""
    input: str | Annotated[list[InputItem], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    """A text, or items: messages, calls of functions, their outputs, reasoning."""
    instructions: str | None = None
    """A system message before the input."""
    max_output_tokens: int | None = Field(None, ge=1, le=MAX_INT32)
    """Most tokens to generate, reasoning included; by default as many as the context holds."""
    temperature: float | None = None
    """0 to 2; 0 is greedy."""
    top_p: float | None = None
    """Sample from the most probable tokens whose probabilities reach this sum; above 0, at most 1."""
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    """Report log-probabilities, and this many best tokens at each position."""
    include: Annotated[list[str], Field(fail_fast=True, max_length=MAX_INCLUDES)] = Field(default_factory=list)
    """Only `message.output_text.logprobs`."""
    text: TextConfig = Field(default_factory=TextConfig)
    """`format`: `text`, `json_object` or `json_schema`."""
    tools: Annotated[list[ResponseTool], Field(fail_fast=True, max_length=MAX_TOOLS)] = Field(default_factory=list)
    """Functions that the model may call."""
    tool_choice: Literal["none", "auto", "required"] | ToolChoiceObject = "auto"
    """`none`, `auto`, `required`, one function, or `allowed_tools`."""
    parallel_tool_calls: bool = True
    """Allow several calls in one answer."""
    max_tool_calls: int | None = Field(None, ge=1)
    """Bounds calls of tools that the server runs, of which there are none."""
    reasoning: ReasoningConfig = Field(default_factory=ReasoningConfig)
    """`effort`; reasoning is sent as it is, without a summary."""
    truncation: Literal["auto", "disabled"] = "disabled"
    """Only `disabled`: an input that is too long is refused."""
    stream: bool = False
    """Send the answer as server-sent events while it is made."""
    stream_options: ResponseStreamOptions | None = None
    """`include_obfuscation` must be false."""
    service_tier: str | None = None
    """`auto`, `default`, `flex` or `priority`; the answer names the one used."""
    metadata: Metadata = Field(default_factory=dict)
    """Up to 16 pairs of strings, for the caller's own use; nothing is stored."""
    user: str | None = Field(None, max_length=512)
    """The unit of fair sharing between requests."""
    safety_identifier: str | None = Field(None, max_length=512)
    """Comes back in the answer."""
    prompt_cache_key: str | None = Field(None, max_length=512)
    """Comes back in the answer."""
    seed: int | None = None
    """As in chat completions; not OpenAI's, like the fields that follow."""
    stop: str | StopStrings | None = None
    """As in chat completions."""
    top_k: int | None = None
    """As in chat completions."""
    min_p: float | None = None
    """As in chat completions."""
    ignore_eos: bool | None = None
    """As in chat completions."""
    priority: int | None = None
    """As in chat completions."""
    cache_salt: str | None = None
    """As in chat completions."""
    timeout: float | None = None
    """As in chat completions."""
    timings: bool | None = None
    """As in chat completions; a part of the Response."""
