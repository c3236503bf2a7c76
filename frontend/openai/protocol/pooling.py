"""What bodies of embeddings, scores and rankings have in common: how texts become tokens, and how they are served."""

from typing import Annotated

from pydantic import AfterValidator, Field

from frontend.openai.protocol.body import Body
from frontend.openai.protocol.generation import MAX_INT32, MAX_TIMEOUT_S, check_truncation


class PoolingBody(Body):
    """A body whose texts become vectors."""

    model: str
    """Name of the served model."""
    truncate_prompt_tokens: Annotated[int, AfterValidator(check_truncation)] | None = None
    """Keep only this many of each text's last tokens; -1 for as many as the context has room for."""
    add_special_tokens: bool = True
    """Tokenize a text with the tokens that the model expects around it."""
    user: str = Field("", max_length=512)
    """The unit of fair sharing between requests."""
    cache_salt: str = Field("", max_length=512)
    """Requests share the prefix cache only under equal salts."""
    priority: int = Field(0, ge=-MAX_INT32 - 1, le=MAX_INT32)
    """Lower runs first."""
    timeout: float | None = Field(None, ge=0.001, le=MAX_TIMEOUT_S)
    """Seconds after which the request fails with 504; the header `X-Request-Timeout` says the same."""
