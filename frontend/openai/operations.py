"""What the OpenAPI document says about each of our routes: one line, one example, the forms of body and answer.

`frontend/openapi.py` turns this table into the document; a test fails on a route that is not in it.
"""

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from frontend.anthropic_api.answers import AnthropicErrorEnvelope, MessageEvent, MessageObject, TokenCount
from frontend.anthropic_api.protocol import CountTokensRequest, MessagesRequest
from frontend.batch_api.answers import BatchList, BatchObject, FileDeleted, FileList, FileObject
from frontend.batch_api.protocol import BatchQuery, BatchRequest, FileQuery, FileUpload
from frontend.openai.answers import (
    Cancelled,
    ChatCompletion,
    ChatCompletionChunk,
    Completion,
    CompletionChunk,
    Detokenized,
    EmbeddingList,
    ErrorEnvelope,
    Liveness,
    ModelCard,
    ModelList,
    Ranking,
    Readiness,
    RenderedPrompt,
    RenderedPrompts,
    ScoreList,
    ServerDescription,
    ServerLoad,
    ServerVersion,
    Tokenized,
)
from frontend.openai.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    RerankRequest,
    ScoreRequest,
    TokenizeRequest,
)
from frontend.responses_api.answers import ResponseEvent, ResponseObject
from frontend.responses_api.protocol import ResponsesRequest

Example = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One route."""

    summary: str
    answer: type[BaseModel] | None
    """None for what is no JSON."""
    body: type[BaseModel] | None = None
    event: type[BaseModel] | None = None
    """Data of the events that are sent instead where the body asks for a stream."""
    examples: dict[str, Example] = field(default_factory=dict)
    """Bodies, by title."""
    needs_model: bool = True
    """It answers 503 while there is none."""
    error: type[BaseModel] = ErrorEnvelope
    ends_with_done: bool = True
    """A complete stream ends with `[DONE]`; else the type of its last event says that it is complete."""
    has_file: bool = False
    """The body is a form with a `file`."""
    query: type[BaseModel] | None = None
    """Parameters in the query."""
    statuses: tuple[int, ...] = ()
    """Of errors that other routes do not have."""
    media_type: str = "application/octet-stream"
    """Of an answer that is no JSON."""


_MODEL = "fast-inference-model"
_QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
_CHAT = Operation(
    "Answer a conversation",
    ChatCompletion,
    ChatCompletionRequest,
    ChatCompletionChunk,
    {
        "A question": {"model": _MODEL, "messages": _QUESTION, "temperature": 0, "max_tokens": 20},
        "A stream": {
            "model": _MODEL,
            "messages": [{"role": "system", "content": "Be brief."}, *_QUESTION],
            "max_tokens": 20,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    },
)
_COMPLETION = Operation(
    "Continue one or several texts",
    Completion,
    CompletionRequest,
    CompletionChunk,
    {
        "A text": {"model": _MODEL, "prompt": "Once upon a time", "max_tokens": 16},
        "Two texts, two continuations each": {"model": _MODEL, "prompt": ["One", "Two"], "n": 2, "max_tokens": 4},
    },
)
_CHAT_RENDER = Operation(
    "Prompt that a conversation becomes",
    RenderedPrompt,
    ChatCompletionRequest,
    examples={"A question": {"model": _MODEL, "messages": _QUESTION}},
)
_COMPLETION_RENDER = Operation(
    "Prompts that texts become",
    RenderedPrompts,
    CompletionRequest,
    examples={"Two texts": {"model": _MODEL, "prompt": ["One", "Two"]}},
)
_EMBEDDING = Operation(
    "Embed texts as vectors",
    EmbeddingList,
    EmbeddingRequest,
    examples={"Two texts": {"model": _MODEL, "input": ["a text", "another"], "encoding_format": "base64"}},
)
_SCORE = Operation(
    "How similar texts are",
    ScoreList,
    ScoreRequest,
    examples={"One text and two": {"model": _MODEL, "text_1": "a cat", "text_2": ["a kitten", "the stock market"]}},
)
_RERANK = Operation(
    "Documents in order of their similarity to a query",
    Ranking,
    RerankRequest,
    examples={
        "The best of three": {"model": _MODEL, "query": "pets", "documents": ["cars", "a cat", "tax"], "top_n": 1},
        "Documents as objects": {"model": _MODEL, "query": "pets", "documents": [{"text": "cats"}, "a dog"]},
    },
)
_TOKENIZE = Operation(
    "Token ids of a text or of a conversation",
    Tokenized,
    TokenizeRequest,
    examples={"A text": {"prompt": "Hello", "return_token_strs": True}, "A conversation": {"messages": _QUESTION}},
)
_DETOKENIZE = Operation(
    "Text of token ids", Detokenized, DetokenizeRequest, examples={"Two tokens": {"tokens": [72, 105]}}
)
_RESPONSE = Operation(
    "Answer a text or a conversation (OpenAI's Responses)",
    ResponseObject,
    ResponsesRequest,
    ResponseEvent,
    {
        "A question": {"model": _MODEL, "input": "What is the capital of France?", "max_output_tokens": 20},
        "A stream": {
            "model": _MODEL,
            "instructions": "Be brief.",
            "input": _QUESTION,
            "max_output_tokens": 20,
            "stream": True,
        },
    },
    ends_with_done=False,
)
_MESSAGE = Operation(
    "Answer a conversation (Anthropic's Messages)",
    MessageObject,
    MessagesRequest,
    MessageEvent,
    {
        "A question": {"model": _MODEL, "max_tokens": 20, "messages": _QUESTION},
        "A stream": {"model": _MODEL, "max_tokens": 20, "system": "Be brief.", "messages": _QUESTION, "stream": True},
    },
    error=AnthropicErrorEnvelope,
    ends_with_done=False,
)
_COUNT_TOKENS = Operation(
    "Number of tokens of a conversation",
    TokenCount,
    CountTokensRequest,
    examples={"A question": {"model": _MODEL, "messages": _QUESTION}},
    error=AnthropicErrorEnvelope,
)
_CANCEL = Operation("End the requests with this id, which is that of an answer or an X-Request-Id", Cancelled)
_READY = Operation("Whether requests are served now", Readiness)

_STORAGE = (404, 507)

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("post", "/v1/chat/completions"): _CHAT,
    ("post", "/v1/completions"): _COMPLETION,
    ("post", "/v1/chat/completions/render"): _CHAT_RENDER,
    ("post", "/v1/completions/render"): _COMPLETION_RENDER,
    ("post", "/v1/responses"): _RESPONSE,
    ("post", "/v1/messages"): _MESSAGE,
    ("post", "/v1/messages/count_tokens"): _COUNT_TOKENS,
    ("post", "/v1/embeddings"): _EMBEDDING,
    ("post", "/v1/score"): _SCORE,
    ("post", "/score"): _SCORE,
    ("post", "/v1/rerank"): _RERANK,
    ("post", "/v2/rerank"): _RERANK,
    ("post", "/rerank"): _RERANK,
    ("post", "/v1/tokenize"): _TOKENIZE,
    ("post", "/tokenize"): _TOKENIZE,
    ("post", "/v1/detokenize"): _DETOKENIZE,
    ("post", "/detokenize"): _DETOKENIZE,
    ("get", "/v1/models"): Operation("Names under which the model is served", ModelList),
    ("get", "/v1/models/{model_id}"): Operation("One of these names", ModelCard),
    ("post", "/v1/requests/{request_id}/cancel"): _CANCEL,
    ("delete", "/v1/requests/{request_id}"): _CANCEL,
    ("post", "/v1/files"): Operation(
        "Keep a file, such as the input of a batch", FileObject, FileUpload, has_file=True, statuses=(403, 507)
    ),
    ("get", "/v1/files"): Operation(
        "Files of the caller", FileList, query=FileQuery, needs_model=False, statuses=_STORAGE
    ),
    ("get", "/v1/files/{file_id}"): Operation("One file", FileObject, needs_model=False, statuses=_STORAGE),
    ("delete", "/v1/files/{file_id}"): Operation("Forget a file", FileDeleted, needs_model=False, statuses=_STORAGE),
    ("get", "/v1/files/{file_id}/content"): Operation("Its content", None, needs_model=False, statuses=_STORAGE),
    ("post", "/v1/batches"): Operation(
        "Have every line of a file answered, behind online requests", BatchObject, BatchRequest, statuses=(507,)
    ),
    ("get", "/v1/batches"): Operation(
        "Batches of the caller, the latest first", BatchList, query=BatchQuery, needs_model=False, statuses=_STORAGE
    ),
    ("get", "/v1/batches/{batch_id}"): Operation(
        "How far a batch is", BatchObject, needs_model=False, statuses=_STORAGE
    ),
    ("post", "/v1/batches/{batch_id}/cancel"): Operation(
        "End a batch; what is done of it is kept", BatchObject, needs_model=False, statuses=(*_STORAGE, 409)
    ),
    ("get", "/metrics"): Operation(
        "Metrics of the whole server for Prometheus", None, needs_model=False, media_type="text/plain"
    ),
    ("get", "/load"): Operation("How busy the server is", ServerLoad),
    ("get", "/server_info"): Operation("Versions, model, device and limits", ServerDescription),
    ("get", "/health"): _READY,
    ("get", "/ping"): _READY,
    ("post", "/ping"): _READY,
    ("get", "/health/live"): Operation("Whether this process lives", Liveness, needs_model=False),
    ("get", "/version"): Operation("Version of the server", ServerVersion, needs_model=False),
}
"""By method and path of the document."""
