"""What bodies of embeddings, scores and rankings have in common: how texts become tokens, and how they are served."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from frontend.openai.protocol.body import Body
from frontend.openai.protocol.generation import MAX_INT32, MAX_TIMEOUT_S, REQUEST_ID, check_truncation
from frontend.openai.unsupported import Unsupported

POOLING_UNSUPPORTED: dict[str, Unsupported] = {
    "input_type": Unsupported((), "a text of the model's before each text"),
    "instruction": Unsupported(("",), "a text of the model's before each text"),
    "prompt_name": Unsupported((), "a text of the model's before each text"),
    "task": Unsupported((), "weights for one use of the vectors"),
    "late_chunking": Unsupported((False,), "texts that see each other"),
    "truncate": Unsupported((False, "NONE"), "cutting texts that are too long; see `truncate_prompt_tokens`"),
    "truncation": Unsupported((False,), "cutting texts that are too long; see `truncate_prompt_tokens`"),
    "mm_processor_kwargs": Unsupported(({},), "options for images"),
    "chat_template": Unsupported((), "a template of the caller's"),
    "chat_template_kwargs": Unsupported(({},), "variables of the template"),
}
"""What other servers do with texts before they compare or embed them."""


class PoolingBody(Body):
    """A body whose texts become vectors."""

    model: str
    """Name of the served model."""
    truncate_prompt_tokens: Annotated[int, AfterValidator(check_truncation)] | None = None
    """Keep only this many tokens of each text; -1 for as many as the context has room for."""
    truncation_side: Literal["left", "right"] = "left"
    """The end at which `truncate_prompt_tokens` cuts: `left` keeps a text's last tokens, `right` its first."""
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
    request_id: str | None = Field(None, pattern=REQUEST_ID)
    """Becomes part of the answer's `id`, by which the request can be cancelled."""
