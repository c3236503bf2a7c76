"""The bodies of `POST /v1/messages` and `POST /v1/messages/count_tokens`, with Anthropic's field names.

Checked as strictly as the other bodies (`frontend/openai/protocol.py`). Blocks and tools are records with all fields of
all kinds; which kinds there are, and what each needs, is for `chat_values`. Next: `chat_values.py`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from frontend.openai.protocol.body import Body
from frontend.openai.protocol.generation import MAX_INT32, MAX_STOP_STRING_CHARS, StopStrings
from frontend.openai.protocol.messages import MAX_CONTENT_PARTS, MAX_MESSAGES
from frontend.openai.unsupported import Unsupported

MAX_TOOLS = 128

_KEEP_ALL_THINKING = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}

UNSUPPORTED: dict[str, Unsupported] = {
    "container": Unsupported((), "running code on the server"),
    "context_management": Unsupported(({}, {"edits": []}, _KEEP_ALL_THINKING), "shortening the conversation"),
    "diagnostics": Unsupported(({},), "why the prompt was not in the cache"),
    "inference_geo": Unsupported((), "a place to compute"),
    "mcp_servers": Unsupported(([],), "tools that the server runs"),
    "output_format": Unsupported((), "an older name of `output_config.format`"),
    "speed": Unsupported(("standard",), "a faster model"),
}
HARMLESS: dict[str, str] = {"cache_control": "the prefix cache needs no hint"}


def _check_stop_sequences(stops: list[str]) -> list[str]:
    if any(not 1 <= len(item) <= MAX_STOP_STRING_CHARS for item in stops):
        raise ValueError(f"a stop sequence must have 1 to {MAX_STOP_STRING_CHARS} characters")
    return stops


class NestedBlock(Body):
    """A block of a tool's result."""

    type: str
    text: str | None = None
    citations: Any = None
    """Of an answer that is sent back; changes nothing."""
    cache_control: Any = None
    """The prefix cache needs no hint."""


NestedBlocks = Annotated[list[NestedBlock], Field(fail_fast=True, max_length=MAX_CONTENT_PARTS)]


class ContentBlock(NestedBlock):
    """A block of a message: text, thinking, the use of a tool, or its result."""

    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | NestedBlocks | None = None
    is_error: bool = False
    signature: str | None = None
    """Of thinking; nothing is signed here, and nothing checked."""
    data: str | None = None
    """Of thinking that nobody can read."""


ContentBlocks = Annotated[list[ContentBlock], Field(fail_fast=True, max_length=MAX_CONTENT_PARTS)]


class AnthropicMessage(Body):
    """One message of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | ContentBlocks


class AnthropicTool(Body):
    """A tool that the model may use; only those that the client runs are possible here."""

    type: str = "custom"
    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool = False
    cache_control: Any = None
    """The prefix cache needs no hint."""


class AnthropicToolChoice(Body):
    """Whether the model uses tools, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class ThinkingConfig(Body):
    """Whether the model thinks before it answers."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = Field(None, ge=1024)
    """A target, which Anthropic's models may exceed too."""
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Body):
    """The form of the answer."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Body):
    """How the answer should be."""

    format: OutputFormat | None = None
    effort: str | None = None


class RequestMetadata(Body):
    """Who asks."""

    user_id: str | None = Field(None, max_length=256)


class PromptBody(Body):
    """What makes a prompt: the whole of `count_tokens`, and a part of `messages`."""

    unsupported_parameters: ClassVar[Mapping[str, Unsupported]] = UNSUPPORTED
    harmless_parameters: ClassVar[Mapping[str, str]] = HARMLESS

    model: str
    """Name of the served model."""
    messages: Annotated[list[AnthropicMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    """The conversation; one that ends with the assistant is continued."""
    system: str | ContentBlocks | None = None
    """A text, or blocks of text, before the conversation."""
    tools: Annotated[list[AnthropicTool], Field(fail_fast=True, max_length=MAX_TOOLS)] = Field(default_factory=list)
    """Tools that the client runs."""
    tool_choice: AnthropicToolChoice | None = None
    """`auto`, `any`, `tool` with a name, or `none`; `disable_parallel_tool_use`."""
    thinking: ThinkingConfig | None = None
    """`enabled`, `adaptive` or `disabled`, where the model's template can be told; the budget is no limit."""
    output_config: OutputConfig | None = None
    """`format` with a JSON schema, and `effort`."""


class CountTokensRequest(PromptBody):
    """Body of `POST /v1/messages/count_tokens`."""


class MessagesRequest(PromptBody):
    """Body of `POST /v1/messages`."""

    max_tokens: int = Field(ge=1, le=MAX_INT32)
    """Most tokens to generate, thinking included."""
    stop_sequences: Annotated[StopStrings, AfterValidator(_check_stop_sequences)] = Field(default_factory=list)
    """Strings that end the answer."""
    temperature: float | None = Field(None, ge=0, le=1)
    """0 is greedy."""
    top_p: float | None = None
    """Sample from the most probable tokens whose probabilities reach this sum; above 0, at most 1."""
    top_k: int | None = Field(None, ge=0)
    """Sample from this many most probable tokens; 0 for all."""
    stream: bool = False
    """Send the answer as server-sent events while it is made."""
    metadata: RequestMetadata | None = None
    """`user_id`, the unit of fair sharing between requests."""
    service_tier: Literal["auto", "standard_only"] = "auto"
    """There is only the standard one."""
    seed: int | None = None
    """As in chat completions; not Anthropic's, like the fields that follow."""
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
    """As in chat completions; in a stream in `message_delta`, beside the usage."""
