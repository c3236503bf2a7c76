"""The body of `POST /v1/responses`, with OpenAI's field names.

Checked as strictly as the other bodies (`frontend/openai/protocol.py`). Items, parts and tools are records with all
fields of all kinds; which kinds there are, and what each needs, is for `chat_values`. The server keeps no answers, so
what refers to one (`previous_response_id`, `conversation`, …) is in `UNSUPPORTED`. Next: `chat_values.py`.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from frontend.openai.protocol import MAX_CONTENT_PARTS, MAX_MESSAGES, StopStrings, _Body

MAX_TOOLS = 128
MAX_METADATA = 16
MAX_METADATA_KEY_CHARS = 64
MAX_METADATA_VALUE_CHARS = 512
MAX_INCLUDES = 16

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "access_programs": (),
    "background": (False,),
    "background_options": (),
    "context_management": ([],),
    "conversation": (),
    "image": (),
    "moderation": (),
    "previous_response_id": (),
    "prompt": (),
    "store": (False,),
}
"""Name → values that ask for nothing; null always does."""

HARMLESS = frozenset({"prompt_cache_options", "prompt_cache_retention"})
"""Known fields that cannot change an answer of this server."""


def _check_metadata(metadata: dict[str, str]) -> dict[str, str]:
    if len(metadata) > MAX_METADATA:
        raise ValueError(f"at most {MAX_METADATA} pairs")
    if any(
        len(key) > MAX_METADATA_KEY_CHARS or len(value) > MAX_METADATA_VALUE_CHARS for key, value in metadata.items()
    ):
        raise ValueError(
            f"keys of at most {MAX_METADATA_KEY_CHARS} and values of at most {MAX_METADATA_VALUE_CHARS} characters"
        )
    return metadata


class InputPart(_Body):
    """A part of a message or of a tool's output."""

    type: str
    text: str | None = None
    refusal: str | None = None


Parts = Annotated[list[InputPart], Field(fail_fast=True, max_length=MAX_CONTENT_PARTS)]


class InputItem(_Body):
    """One item of the input: a message, a call of a function, its output, or reasoning."""

    type: str = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | Parts | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | Parts | None = None


class TextFormat(_Body):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextConfig(_Body):
    """How the answer's text should be."""

    format: TextFormat = Field(default_factory=TextFormat)
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningConfig(_Body):
    """How much the model should think before it answers."""

    effort: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    mode: str | None = None
    context: str | None = None


class ResponseTool(_Body):
    """A tool that the model may call; only functions are possible here."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: bool = False
    is_async: bool = Field(default=False, alias="async")


class NamedTool(_Body):
    """A reference to a tool of the body."""

    type: str
    name: str | None = None


class ToolChoiceObject(_Body):
    """A choice of tool with details."""

    type: str
    name: str | None = None
    mode: Literal["auto", "required"] | None = None
    tools: Annotated[list[NamedTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None


class ResponseStreamOptions(_Body):
    """What a stream contains besides the events."""

    include_obfuscation: bool = False


class ResponsesRequest(_Body):
    """Body of `POST /v1/responses`."""

    unsupported_parameters: ClassVar[dict[str, tuple[Any, ...]]] = UNSUPPORTED
    harmless_parameters: ClassVar[frozenset[str]] = HARMLESS

    model: str
    input: str | Annotated[list[InputItem], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    include: Annotated[list[str], Field(fail_fast=True, max_length=MAX_INCLUDES)] = Field(default_factory=list)
    text: TextConfig = Field(default_factory=TextConfig)
    tools: Annotated[list[ResponseTool], Field(fail_fast=True, max_length=MAX_TOOLS)] = Field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | ToolChoiceObject = "auto"
    parallel_tool_calls: bool = True
    max_tool_calls: int | None = Field(None, ge=1)
    """Bounds calls of tools that the server runs, of which there are none."""
    reasoning: ReasoningConfig = Field(default_factory=ReasoningConfig)
    truncation: Literal["auto", "disabled"] = "disabled"
    stream: bool = False
    stream_options: ResponseStreamOptions | None = None
    service_tier: str | None = None
    metadata: Annotated[dict[str, str], AfterValidator(_check_metadata)] = Field(default_factory=dict)
    user: str | None = Field(None, max_length=512)
    safety_identifier: str | None = Field(None, max_length=512)
    prompt_cache_key: str | None = Field(None, max_length=512)
    # not OpenAI's: fields of chat completions that are passed on as they are
    seed: int | None = None
    stop: str | StopStrings | None = None
    top_k: int | None = None
    min_p: float | None = None
    ignore_eos: bool | None = None
    priority: int | None = None
    cache_salt: str | None = None
