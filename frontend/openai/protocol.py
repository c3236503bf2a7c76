"""The bodies of the API's requests, with OpenAI's and vLLM's field names.

Scalars are strict: true is not 1, "1" is not 1, but 1 may stand for 1.0. Only types and sizes are checked here; ranges
of sampling parameters belong to `ipc.sampling_params`, which `frontend/input_processor.py` fills in.
Fields that are known but not honoured are in `unsupported`.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

MAX_CHOICES = 128
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_CHARS = 256
MAX_INPUTS = 2048


def _check_stop(stop: str | list[str]) -> str | list[str]:
    stops = [stop] if isinstance(stop, str) else stop
    if len(stops) > MAX_STOP_STRINGS:
        raise ValueError(f"at most {MAX_STOP_STRINGS} stop strings")
    if any(not 1 <= len(item) <= MAX_STOP_STRING_CHARS for item in stops):
        raise ValueError(f"a stop string must have 1 to {MAX_STOP_STRING_CHARS} characters")
    return stop


def _check_inputs(inputs: "InputValues") -> "InputValues":
    if len(inputs) == 0:
        raise ValueError("must not be empty")
    if isinstance(inputs, str) or isinstance(inputs[0], int):
        return inputs
    if len(inputs) > MAX_INPUTS:
        raise ValueError(f"at most {MAX_INPUTS} inputs")
    if any(len(item) == 0 for item in inputs if not isinstance(item, int)):
        raise ValueError("no input may be empty")
    return inputs


def _form_of(inputs: Any) -> str | None:
    """Which of the four forms is meant, by the first item; the errors are then about that form alone."""
    if isinstance(inputs, str):
        return "text"
    if not isinstance(inputs, list):
        return None
    first = inputs[0] if inputs else ""
    return "ids" if isinstance(first, int) else "id_lists" if isinstance(first, list) else "texts"


InputValues = str | list[str] | list[int] | list[list[int]]
Inputs = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[list[str], Tag("texts")]
    | Annotated[list[int], Tag("ids")]
    | Annotated[list[list[int]], Tag("id_lists")],
    Discriminator(
        _form_of,
        custom_error_type="inputs_type",
        custom_error_message="must be a string, a list of strings, a list of token ids, or a list of such lists",
    ),
    AfterValidator(_check_inputs),
]
"""One text, several, the token ids of one, or the token ids of several."""


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


class ChatMessage(_Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class StreamOptions(_Body):
    """What a stream contains besides the text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


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
    stop: Annotated[str | list[str], AfterValidator(_check_stop)] = Field(default_factory=list)
    stop_token_ids: list[int] = Field(default_factory=list)
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


class ChatCompletionRequest(GenerationBody):
    """Body of `POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    add_generation_prompt: bool = True
    add_special_tokens: bool = False

    @property
    def num_max_tokens(self) -> int | None:
        """`max_completion_tokens`, or else `max_tokens`."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class CompletionRequest(GenerationBody):
    """Body of `POST /v1/completions`."""

    prompt: Inputs
    add_special_tokens: bool = True


class EmbeddingRequest(_Body):
    """Body of `POST /v1/embeddings`."""

    model: str
    input: Inputs
    encoding_format: Literal["float", "base64"] = "float"
    user: str = Field("", max_length=512)
    add_special_tokens: bool = True
    cache_salt: str = Field("", max_length=512)
    priority: int = Field(0, ge=-(2**31), le=2**31 - 1)


class TokenizeRequest(_Body):
    """Body of `POST /tokenize`: either `prompt` or `messages`."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1)
    add_special_tokens: bool | None = None
    """By default true for a prompt and false for messages, whose template writes its own."""
    add_generation_prompt: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(_Body):
    """Body of `POST /detokenize`."""

    model: str | None = None
    tokens: list[int]
