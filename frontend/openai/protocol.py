"""The bodies of the API's requests, with OpenAI's and vLLM's field names.

Scalars are strict: true is not 1, "1" is not 1, but 1 may stand for 1.0. Only types and sizes are checked here; ranges
of sampling parameters belong to `ipc.sampling_params`, which `frontend/input_processor.py` fills in.
Invariant: every list has a limit and stops at its first wrong item, so that checking a body costs no more than reading
it. Fields that are known but not honoured are in `unsupported`; prompts are in `inputs`.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from frontend.openai.inputs import EmbeddingInputs, Prompts, TokenIds, num_inputs
from ipc.sampling_params import MAX_STOP_TOKEN_IDS

MAX_CHOICES = 128
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_CHARS = 256
MAX_MESSAGES = 4096
MAX_CONTENT_PARTS = 1024
MAX_TOOL_CALLS = 1024


def _check_stop(stop: str | list[str]) -> str | list[str]:
    stops = [stop] if isinstance(stop, str) else stop
    if any(not 1 <= len(item) <= MAX_STOP_STRING_CHARS for item in stops):
        raise ValueError(f"a stop string must have 1 to {MAX_STOP_STRING_CHARS} characters")
    return stop


class _Body(BaseModel):
    """Base of all bodies and of what they contain."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        """Explicit nulls count as absent."""
        if isinstance(values, dict):
            return {name: value for name, value in values.items() if value is not None}
        return values


class ContentPart(_Body):
    """A part of a message; only text can be read."""

    type: str
    text: str | None = None


ContentParts = Annotated[list[ContentPart], Field(fail_fast=True, max_length=MAX_CONTENT_PARTS)]
ToolCalls = Annotated[list[dict[str, Any]], Field(fail_fast=True, max_length=MAX_TOOL_CALLS)]


class ChatMessage(_Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | ContentParts | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: ToolCalls | None = None


Messages = Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]


class StreamOptions(_Body):
    """What a stream contains besides the text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


StopStrings = Annotated[list[str], Field(fail_fast=True, max_length=MAX_STOP_STRINGS)]
StopTokenIds = Annotated[list[int], Field(fail_fast=True, max_length=MAX_STOP_TOKEN_IDS)]


class GenerationBody(_Body):
    """What chat and text completions have in common."""

    model: str
    max_tokens: int | None = Field(None, ge=1)
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    stop: Annotated[str | StopStrings, AfterValidator(_check_stop)] = Field(default_factory=list)
    stop_token_ids: StopTokenIds = Field(default_factory=list)
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str = Field("", max_length=512)
    cache_salt: str = Field("", max_length=512)
    priority: int = Field(0, ge=-(2**31), le=2**31 - 1)

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def num_max_tokens(self) -> int | None:
        """Most tokens to generate, or None if the client leaves it to the server."""
        return self.max_tokens

    @property
    def num_answers(self) -> int:
        """How many requests this is for the engine: prompts times `n`."""
        return self.n


class ChatCompletionRequest(GenerationBody):
    """Body of `POST /v1/chat/completions`."""

    messages: Messages
    max_completion_tokens: int | None = Field(None, ge=1)
    add_generation_prompt: bool = True
    add_special_tokens: bool = False

    @property
    def num_max_tokens(self) -> int | None:
        """`max_completion_tokens`, or else `max_tokens`."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class CompletionRequest(GenerationBody):
    """Body of `POST /v1/completions`."""

    prompt: Prompts
    add_special_tokens: bool = True

    @property
    def num_answers(self) -> int:
        """`n` for each prompt."""
        return num_inputs(self.prompt) * self.n


class EmbeddingRequest(_Body):
    """Body of `POST /v1/embeddings`."""

    model: str
    input: EmbeddingInputs
    encoding_format: Literal["float", "base64"] = "float"
    user: str = Field("", max_length=512)
    add_special_tokens: bool = True
    cache_salt: str = Field("", max_length=512)
    priority: int = Field(0, ge=-(2**31), le=2**31 - 1)


class TokenizeRequest(_Body):
    """Body of `POST /tokenize`: either `prompt` or `messages`."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool | None = None
    """By default true for a prompt and false for messages, whose template writes its own."""
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(_Body):
    """Body of `POST /detokenize`."""

    model: str | None = None
    tokens: TokenIds
