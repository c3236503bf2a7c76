"""The body of `POST /v1/embeddings`."""

from typing import Literal

from pydantic import Field

from frontend.openai.inputs import EmbeddingInputs
from frontend.openai.protocol.body import Body


class EmbeddingRequest(Body):
    """Body of `POST /v1/embeddings`."""

    model: str
    """Name of the served model."""
    input: EmbeddingInputs
    """A text, several texts, the token ids of one, or the token ids of several."""
    encoding_format: Literal["float", "base64"] = "float"
    """JSON numbers, or base64 of little-endian 32-bit floats."""
    user: str = Field("", max_length=512)
    """The unit of fair sharing between requests."""
    add_special_tokens: bool = True
    """Tokenize a text with the tokens that the model expects around it."""
    cache_salt: str = Field("", max_length=512)
    """Requests share the prefix cache only under equal salts."""
    priority: int = Field(0, ge=-(2**31), le=2**31 - 1)
    """Lower runs first."""
