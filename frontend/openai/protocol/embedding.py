"""The body of `POST /v1/embeddings`."""

from typing import Literal

from pydantic import Field

from frontend.openai.inputs import EmbeddingInputs
from frontend.openai.protocol.generation import MAX_INT32
from frontend.openai.protocol.pooling import PoolingBody


class EmbeddingRequest(PoolingBody):
    """Body of `POST /v1/embeddings`."""

    input: EmbeddingInputs
    """A text, several texts, the token ids of one, or the token ids of several."""
    encoding_format: Literal["float", "base64"] = "float"
    """JSON numbers, or base64 of little-endian 32-bit floats."""
    dimensions: int | None = Field(None, ge=1, le=MAX_INT32)
    """Only this many first components, scaled to length 1 again; at most the model's own number."""
