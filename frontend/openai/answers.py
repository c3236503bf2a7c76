"""The form of what the API answers, for the OpenAPI document: endpoints build their answers as plain dicts.

Used by `frontend/openapi.py`. A model names the fields that every answer has; an answer may have more.
Tests check real answers against these schemas.
"""

from typing import Any, Literal

from pydantic import BaseModel, RootModel


class PromptTokensDetails(BaseModel):
    """Where the tokens of a prompt came from."""

    cached_tokens: int


class CompletionTokensDetails(BaseModel):
    """What the tokens of an answer are for."""

    reasoning_tokens: int


class Usage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None
    """Of models that think."""


class Timings(BaseModel):
    """How long the answer took in the engine; speeds are 0 where there is nothing to divide by."""

    queue_ms: float
    prefill_ms: float
    ttft_ms: float
    """Queue and prefill together."""
    decode_ms: float
    decode_tokens_per_second: float
    prompt_tokens_per_second: float
    cached_tokens: int
    prompt_n: int
    """Prompt tokens that were computed, without the cached ones."""
    predicted_n: int
    cores: list[str]
    """Names of the engine cores that computed it; more than one where one was lost, or for several answers."""


class _Choice(BaseModel):
    index: int
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None
    stop_reason: int | str | None = None


class _Completion(BaseModel):
    id: str
    created: int
    model: str
    system_fingerprint: str | None = None
    timings: Timings | None = None
    """Where asked for; in the last chunk of a stream."""


class FunctionCall(BaseModel):
    """A function and its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call that the model asks for."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class AssistantMessage(BaseModel):
    """What the model said."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None = None
    reasoning_content: str | None = None
    """What the model thought before; `reasoning` says the same."""
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(_Choice):
    """One answer of a chat completion."""

    message: AssistantMessage


class ChatCompletion(_Completion):
    """Answer of `POST /v1/chat/completions`."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class FunctionCallDelta(BaseModel):
    """The name comes first, then pieces of the arguments."""

    name: str | None = None
    arguments: str


class ToolCallDelta(BaseModel):
    """The beginning of a call, or more of its arguments."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCallDelta


class ChatDelta(BaseModel):
    """What a chunk adds to a message."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(_Choice):
    """A piece of one answer."""

    delta: ChatDelta


class ChatCompletionChunk(_Completion):
    """Data of an event of a streamed chat completion."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class CompletionChoice(_Choice):
    """One continuation, or a piece of it."""

    text: str


class Completion(_Completion):
    """Answer of `POST /v1/completions`."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage


class CompletionChunk(_Completion):
    """Data of an event of a streamed completion."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage | None = None


class Embedding(BaseModel):
    """The vector of one input; base64 holds little-endian 32-bit floats."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Token counts of embeddings."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """Answer of `POST /v1/embeddings`."""

    id: str
    object: Literal["list"]
    created: int
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Score(BaseModel):
    """How similar two texts are."""

    index: int
    object: Literal["score"]
    score: float


class ScoreList(BaseModel):
    """Answer of `POST /v1/score`."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: EmbeddingUsage


class DocumentText(BaseModel):
    """What was ranked."""

    text: str


class RankedDocument(BaseModel):
    """A document's place in the request, and how similar it is to the query."""

    index: int
    relevance_score: float
    document: DocumentText | None = None


class Ranking(BaseModel):
    """Answer of `POST /v1/rerank`, best document first."""

    id: str
    model: str
    results: list[RankedDocument]
    usage: EmbeddingUsage


class ModelCard(BaseModel):
    """A name under which the model, or one of its adapters, is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int


class ModelList(BaseModel):
    """Answer of `GET /v1/models`."""

    object: Literal["list"]
    data: list[ModelCard]


class Tokenized(BaseModel):
    """Answer of `POST /v1/tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class RenderedPrompt(BaseModel):
    """Answer of `POST /v1/chat/completions/render`: what the engine would get."""

    request_id: str
    model: str
    prompt: str
    token_ids: list[int]
    sampling_params: dict[str, Any]
    stream: bool
    cache_salt: str | None
    priority: int


class RenderedPrompts(RootModel[list[RenderedPrompt]]):
    """Answer of `POST /v1/completions/render`: one for each prompt."""


class Detokenized(BaseModel):
    """Answer of `POST /v1/detokenize`."""

    prompt: str


class CoreHealth(BaseModel):
    """One engine core."""

    name: str
    state: str
    epoch: int | None
    detail: str
    last_beat_age_s: float
    last_step_age_s: float


class Readiness(BaseModel):
    """Answer of `GET /health`."""

    status: str
    engine: dict[str, Any]
    """All cores as one."""
    num_cores_ready: int
    cores: list[CoreHealth]


class Liveness(BaseModel):
    """Answer of `GET /health/live`."""

    status: Literal["live"]
    pid: int


class ServerVersion(BaseModel):
    """Answer of `GET /version`."""

    version: str


class Capacity(BaseModel):
    """How much the cores can hold together."""

    running: int
    waiting: int
    queued_tokens: int
    kv_blocks: int
    kv_tokens: int


class CoreLoad(BaseModel):
    """How busy one engine core is."""

    name: str
    state: str
    num_requests_running: int
    num_requests_waiting: int
    num_queued_tokens: int
    kv_cache_usage: float
    is_full: bool
    age_s: float


class ServerLoad(BaseModel):
    """Answer of `GET /load`, for the whole server."""

    status: str
    server_load: int
    """Requests that run or wait."""
    num_requests_running: int
    num_requests_waiting: int
    num_queued_tokens: int
    """Prompt tokens of the waiting requests."""
    kv_cache_usage: float
    """Part of the KV cache that running requests hold, from 0 to 1."""
    is_full: bool
    """Requests are refused with 429: all cores are full."""
    retry_after_s: float
    capacity: Capacity
    age_s: float
    """Seconds since a core was last heard."""
    cores: list[CoreLoad]


class ServerDescription(BaseModel):
    """Answer of `GET /server_info`."""

    version: str
    core_version: str
    protocol_version: int
    python_version: str
    started_at: int
    model: dict[str, Any]
    cores: list[dict[str, Any]]
    kv_cache: dict[str, int]
    """Of all cores together."""
    limits: dict[str, int]
    """Of all cores together."""


class Cancelled(BaseModel):
    """Answer of `POST /v1/requests/{request_id}/cancel`."""

    id: str
    object: Literal["request.cancellation"]
    num_cancelled: int
    """Answers that were running or waiting; a request of several has several."""


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    """The field that is wrong, as a dotted path."""
    code: str
    """Stable; clients match on it."""
    status: int
    """The HTTP status again."""


class ErrorEnvelope(BaseModel):
    """Every answer that is not 2xx."""

    error: ErrorDetail
