"""The bodies of `POST /v1/messages` and `POST /v1/messages/count_tokens`, with Anthropic's field names.

Checked as strictly as the other bodies (`frontend/openai/protocol.py`). Blocks and tools are records with all fields of
all kinds; which kinds there are, and what each needs, is for `chat_values`. Next: `chat_values.py`.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from frontend.openai.protocol import (
    MAX_CONTENT_PARTS,
    MAX_MESSAGES,
    MAX_STOP_STRING_CHARS,
    StopStrings,
    _Body,
)

MAX_TOOLS = 128

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "container": (),
    "context_management": ({},),
    "inference_geo": (),
    "mcp_servers": ([],),
    "output_format": (),
    "speed": ("standard",),
}
"""Name → values that ask for nothing; null always does."""

HARMLESS = frozenset({"cache_control"})
"""Known fields that cannot change an answer of this server: prompts are cached without being asked."""


def _check_stop_sequences(stops: list[str]) -> list[str]:
    if any(not 1 <= len(item) <= MAX_STOP_STRING_CHARS for item in stops):
        raise ValueError(f"a stop sequence must have 1 to {MAX_STOP_STRING_CHARS} characters")
    return stops


class NestedBlock(_Body):
    """A block of a tool's result."""

    type: str
    text: str | None = None


NestedBlocks = Annotated[list[NestedBlock], Field(fail_fast=True, max_length=MAX_CONTENT_PARTS)]


class ContentBlock(_Body):
    """A block of a message: text, thinking, the use of a tool, or its result."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | NestedBlocks | None = None
    is_error: bool = False


ContentBlocks = Annotated[list[ContentBlock], Field(fail_fast=True, max_length=MAX_CONTENT_PARTS)]


class AnthropicMessage(_Body):
    """One message of a conversation."""

    role: Literal["user", "assistant"]
    content: str | ContentBlocks


class AnthropicTool(_Body):
    """A tool that the model may use; only those that the client runs are possible here."""

    type: str = "custom"
    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool = False


class AnthropicToolChoice(_Body):
    """Whether the model uses tools, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class ThinkingConfig(_Body):
    """Whether the model thinks before it answers."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=1024)
    """A target of thinking, which Anthropic's models may exceed too."""


class OutputFormat(_Body):
    """The form of the answer."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(_Body):
    """How the answer should be."""

    format: OutputFormat | None = None
    effort: str | None = None


class RequestMetadata(_Body):
    """Who asks."""

    user_id: str | None = Field(None, max_length=256)


class PromptBody(_Body):
    """What makes a prompt: the whole of `count_tokens`, and a part of `messages`."""

    unsupported_parameters: ClassVar[dict[str, tuple[Any, ...]]] = UNSUPPORTED
    harmless_parameters: ClassVar[frozenset[str]] = HARMLESS

    model: str
    messages: Annotated[list[AnthropicMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    system: str | ContentBlocks | None = None
    tools: Annotated[list[AnthropicTool], Field(fail_fast=True, max_length=MAX_TOOLS)] = Field(default_factory=list)
    tool_choice: AnthropicToolChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None


class CountTokensRequest(PromptBody):
    """Body of `POST /v1/messages/count_tokens`."""


class MessagesRequest(PromptBody):
    """Body of `POST /v1/messages`."""

    max_tokens: int = Field(ge=1)
    stop_sequences: Annotated[StopStrings, AfterValidator(_check_stop_sequences)] = Field(default_factory=list)
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = None
    top_k: int | None = Field(None, ge=0)
    stream: bool = False
    metadata: RequestMetadata | None = None
    service_tier: Literal["auto", "standard_only"] = "auto"
    # not Anthropic's: fields of chat completions that are passed on as they are
    seed: int | None = None
    min_p: float | None = None
    ignore_eos: bool | None = None
    priority: int | None = None
    cache_salt: str | None = None
