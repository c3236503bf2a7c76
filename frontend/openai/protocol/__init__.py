"""The bodies of the API's requests, with OpenAI's and vLLM's field names; one module for each endpoint.

Scalars are strict: true is not 1, "1" is not 1, but 1 may stand for 1.0. Only types and sizes are checked here; ranges
of sampling parameters belong to `ipc.sampling_params`, which `frontend/sampling.py` fills in.
Invariant: every list has a limit and stops at its first wrong item, so that checking a body costs no more than reading
it. The docstring of a field is its line in `docs/api.md`. Fields that are known but not honoured are in
`frontend/openai/unsupported.py`; prompts are in `frontend/openai/inputs.py`. Next: `generation.py`.
"""

from frontend.openai.protocol.body import Body
from frontend.openai.protocol.chat import ChatCompletionRequest
from frontend.openai.protocol.completion import CompletionRequest
from frontend.openai.protocol.embedding import EmbeddingRequest
from frontend.openai.protocol.generation import (
    MAX_CHOICES,
    MAX_INT32,
    MAX_STOP_STRING_CHARS,
    MAX_STOP_STRINGS,
    MAX_TIMEOUT_S,
    GenerationBody,
    ServiceTier,
    StreamOptions,
)
from frontend.openai.protocol.messages import (
    MAX_CONTENT_PARTS,
    MAX_MESSAGES,
    MAX_TOOL_CALLS,
    ChatMessage,
    ContentPart,
    Messages,
    MessageToolCall,
)
from frontend.openai.protocol.pooling import PoolingBody
from frontend.openai.protocol.scoring import RerankDocument, RerankRequest, ScoreRequest
from frontend.openai.protocol.structured_output import JsonSchemaFormat, ResponseFormat, StructuredOutputs
from frontend.openai.protocol.template_fields import TemplateFields
from frontend.openai.protocol.tokenization import DetokenizeRequest, TokenizeRequest

__all__ = [
    "MAX_CHOICES",
    "MAX_CONTENT_PARTS",
    "MAX_INT32",
    "MAX_MESSAGES",
    "MAX_STOP_STRINGS",
    "MAX_STOP_STRING_CHARS",
    "MAX_TIMEOUT_S",
    "MAX_TOOL_CALLS",
    "Body",
    "ChatCompletionRequest",
    "ChatMessage",
    "CompletionRequest",
    "ContentPart",
    "DetokenizeRequest",
    "EmbeddingRequest",
    "GenerationBody",
    "JsonSchemaFormat",
    "MessageToolCall",
    "Messages",
    "PoolingBody",
    "RerankDocument",
    "RerankRequest",
    "ResponseFormat",
    "ScoreRequest",
    "ServiceTier",
    "StreamOptions",
    "StructuredOutputs",
    "TemplateFields",
    "TokenizeRequest",
]
