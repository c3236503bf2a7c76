"""The body of `POST /v1/completions`."""

from pydantic import Field, model_validator

from frontend.openai.inputs import Prompts, num_inputs
from frontend.openai.protocol.generation import MAX_CHOICES, MAX_INT32, GenerationBody
from ipc.errors import InvalidRequestError
from ipc.sampling_params import MAX_LOGPROBS

MAX_SUFFIX_CHARS = 2**20


class CompletionRequest(GenerationBody):
    """Body of `POST /v1/completions`."""

    prompt: Prompts
    """A text, several texts, the token ids of one, or the token ids of several."""
    max_tokens: int | None = Field(None, ge=0, le=MAX_INT32)
    """Most tokens to generate, 16 by default; with 0 the answer is the echoed prompt alone, or empty."""
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    """Report the log-probability of each token, and this many best ones at each position."""
    echo: bool = False
    """The answer begins with the prompt, and so do its log-probabilities."""
    suffix: str = Field("", max_length=MAX_SUFFIX_CHARS)
    """What comes after the completion; only with models that have tokens for it."""
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)
    """Answers generated for each prompt, of which the `n` with the best mean log-probability come; not in streams."""
    add_special_tokens: bool = True
    """Tokenize a text with the tokens that the model expects around it."""

    @model_validator(mode="after")
    def _check_answers(self) -> "CompletionRequest":
        if self.best_of is not None and self.best_of < self.n:
            raise InvalidRequestError("best_of must be at least n", param="best_of")
        if self.best_of is not None and self.best_of > self.n and self.stream:
            raise InvalidRequestError("best_of cannot be streamed", param="best_of")
        if self.echo and self.suffix:
            raise InvalidRequestError("echo cannot be combined with suffix", param="echo")
        return self

    @property
    def answers_per_prompt(self) -> int:
        """`best_of`, or `n`."""
        return self.best_of if self.best_of is not None else self.n

    @property
    def is_ranked(self) -> bool:
        """True where more answers are generated than returned."""
        return self.answers_per_prompt > self.n

    @property
    def num_answers(self) -> int:
        """The answers of all prompts."""
        return num_inputs(self.prompt) * self.answers_per_prompt

    @property
    def num_logprobs(self) -> int | None:
        """`logprobs`; ranking needs those of the tokens themselves."""
        return self.logprobs if self.logprobs is not None or not self.is_ranked else 0

    @property
    def num_echoed_logprobs(self) -> int | None:
        """`logprobs` with `echo`."""
        return self.logprobs if self.echo else None
