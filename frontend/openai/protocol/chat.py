"""The body of `POST /v1/chat/completions`."""

from pydantic import Field, model_validator

from frontend.openai.protocol.generation import MAX_INT32, GenerationBody
from frontend.openai.protocol.messages import Messages
from ipc.errors import InvalidRequestError
from ipc.sampling_params import MAX_LOGPROBS


class ChatCompletionRequest(GenerationBody):
    """Body of `POST /v1/chat/completions`."""

    messages: Messages
    """The conversation."""
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_INT32)
    """As `max_tokens`, and goes before it."""
    logprobs: bool = False
    """Report the log-probability of each token of the answer."""
    top_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS)
    """Also report this many best tokens at each position; needs `logprobs`."""
    add_generation_prompt: bool = True
    """End the conversation with what an answer follows."""
    add_special_tokens: bool = False
    """Add the tokenizer's special tokens to those of the template."""

    @model_validator(mode="after")
    def _check_logprobs(self) -> "ChatCompletionRequest":
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequestError("top_logprobs needs logprobs", param="top_logprobs")
        return self

    @property
    def num_max_tokens(self) -> int | None:
        """`max_completion_tokens`, or else `max_tokens`."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """`top_logprobs` where `logprobs` are asked for."""
        return self.top_logprobs if self.logprobs else None
