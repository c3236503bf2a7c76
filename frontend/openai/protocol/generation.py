"""The fields that chat and text completions have in common.

Ranges of sampling parameters are checked in `ipc.sampling_params`; what is checked here are types, sizes, and what
contradicts itself. Next: `chat.py`, `completion.py`.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SkipValidation, model_validator
from pydantic_core import PydanticCustomError

from frontend.openai.protocol.body import Body
from frontend.openai.protocol.structured_output import ResponseFormat, StructuredOutputs
from ipc.errors import InvalidRequestError
from ipc.sampling_params import MAX_ALLOWED_TOKEN_IDS, MAX_LOGIT_BIASES, MAX_LOGPROBS, MAX_STOP_TOKEN_IDS

MAX_CHOICES = 128
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_CHARS = 256
MAX_BAD_WORDS = 512
MAX_BAD_WORD_CHARS = 256
MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY_CHARS = 64
MAX_METADATA_VALUE_CHARS = 512
MAX_TIMEOUT_S = 86_400
MAX_INT32 = 2**31 - 1
REQUEST_ID = r"^[A-Za-z0-9._-]{1,128}$"
"""What an answer's `id` may be made of."""

ServiceTier = Literal["auto", "default", "flex", "priority"]
_TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,9}")


def _check_stop(stop: str | list[str]) -> str | list[str]:
    stops = [stop] if isinstance(stop, str) else stop
    if any(not 1 <= len(item) <= MAX_STOP_STRING_CHARS for item in stops):
        raise ValueError(f"a stop string must have 1 to {MAX_STOP_STRING_CHARS} characters")
    return stop


def _check_logit_bias(biases: Any) -> dict[int, float]:
    """Token ids are strings in JSON; `SamplingParams` knows which of them and which biases there are."""
    if not isinstance(biases, dict):
        raise PydanticCustomError("dict_type", "must be an object of token ids and biases")
    if len(biases) > MAX_LOGIT_BIASES:
        raise ValueError(f"at most {MAX_LOGIT_BIASES} token ids")
    checked: dict[int, float] = {}
    for key, bias in biases.items():
        if type(key) is not int and not (isinstance(key, str) and _TOKEN_ID.fullmatch(key)):
            raise ValueError("each key must be a token id")
        if type(bias) not in (int, float):
            raise PydanticCustomError("float_type", "each bias must be a number")
        if not -100 <= bias <= 100:
            raise ValueError("each bias must be between -100 and 100")
        checked[int(key)] = float(bias)
    return checked


def _check_bad_words(words: list[str]) -> list[str]:
    if any(not word.strip() or len(word) > MAX_BAD_WORD_CHARS for word in words):
        raise ValueError(f"a bad word must have 1 to {MAX_BAD_WORD_CHARS} characters, and not only spaces")
    return words


def _check_metadata(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or set(map(type, metadata.values())) - {str}:
        raise PydanticCustomError("dict_type", "must be an object of strings")
    if len(metadata) > MAX_METADATA_PAIRS:
        raise ValueError(f"at most {MAX_METADATA_PAIRS} pairs")
    for key, value in metadata.items():
        if len(key) > MAX_METADATA_KEY_CHARS or len(value) > MAX_METADATA_VALUE_CHARS:
            raise ValueError(
                f"a key has at most {MAX_METADATA_KEY_CHARS} characters, a value {MAX_METADATA_VALUE_CHARS}"
            )
    return metadata


def check_truncation(limit: int) -> int:
    """The validator of `truncate_prompt_tokens`."""
    if limit != -1 and limit < 1:
        raise ValueError("must be -1 or at least 1")
    return limit


class StreamOptions(Body):
    """What a stream contains besides the text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


StopStrings = Annotated[list[str], Field(fail_fast=True, max_length=MAX_STOP_STRINGS)]
StopTokenIds = Annotated[list[int], Field(fail_fast=True, max_length=MAX_STOP_TOKEN_IDS)]
AllowedTokenIds = Annotated[list[int], Field(fail_fast=True, min_length=1, max_length=MAX_ALLOWED_TOKEN_IDS)]
BadWords = Annotated[list[str], Field(fail_fast=True, max_length=MAX_BAD_WORDS), AfterValidator(_check_bad_words)]
LogitBias = Annotated[dict[int, float], SkipValidation, AfterValidator(_check_logit_bias)]
Metadata = Annotated[dict[str, str], SkipValidation, AfterValidator(_check_metadata)]


class GenerationBody(Body):
    """What chat and text completions have in common."""

    model: str
    """Name of the served model."""
    max_tokens: int | None = Field(None, ge=1, le=MAX_INT32)
    """Most tokens to generate; by default as many as the context holds."""
    min_tokens: int = 0
    """Neither EOS nor a stop token or string ends the answer before this many tokens."""
    temperature: float = 1.0
    """0 to 2; 0 is greedy."""
    top_p: float = 1.0
    """Sample from the most probable tokens whose probabilities reach this sum; above 0, at most 1."""
    top_k: int = 0
    """Sample from this many most probable tokens; 0 or -1 for all."""
    min_p: float = 0.0
    """Drop tokens less probable than this times the most probable one; 0 to 1."""
    top_n_sigma: float = 0.0
    """Drop tokens whose logits are more than this many standard deviations below the largest; 0 to 100, 0 is off."""
    seed: int | None = None
    """Answers with equal seeds draw alike; the n-th answer of a request has `seed + n`."""
    frequency_penalty: float = 0.0
    """Lower the logit of a token by this for each time that the answer has it; -2 to 2."""
    presence_penalty: float = 0.0
    """Lower the logits of tokens that the answer has already; -2 to 2."""
    repetition_penalty: float = 1.0
    """Scale down the logits of tokens in the prompt or the answer; 1 changes nothing; 0.01 to 100."""
    logit_bias: LogitBias = Field(default_factory=dict)
    """Token id → number from -100 to 100 that is added to its logit."""
    allowed_token_ids: AllowedTokenIds | None = None
    """Only these tokens can be sampled."""
    bad_words: BadWords = Field(default_factory=list)
    """Texts that the answer must not contain: as written, and behind a space."""
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    """Answers for each prompt."""
    stop: Annotated[str | StopStrings, AfterValidator(_check_stop)] = Field(default_factory=list)
    """Strings that end the answer."""
    stop_token_ids: StopTokenIds = Field(default_factory=list)
    """Tokens that end the answer."""
    ignore_eos: bool = False
    """Go on past the end-of-sequence token."""
    include_stop_str_in_output: bool = False
    """The stop string or token is part of the text."""
    skip_special_tokens: bool = True
    """Special tokens are not part of the text."""
    prompt_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    """Log-probabilities of the prompt's tokens and of this many best ones at each position; not in streams."""
    response_format: ResponseFormat | None = None
    """`text`, `json_object`, or `json_schema`; with `strict`, a schema that cannot be enforced is refused."""
    structured_outputs: StructuredOutputs | None = None
    """What the answer must match: one of `json` (a schema), `json_object`, `regex`, `choice`, `grammar` (Lark)."""
    stream: bool = False
    """Send the answer as server-sent events while it is made."""
    stream_options: StreamOptions | None = None
    """`include_usage`, `continuous_usage_stats`: token counts at the end, or in every chunk."""
    return_token_ids: bool = False
    """Also give the token ids of the prompt and of the answer."""
    return_tokens_as_token_ids: bool = False
    """In log-probabilities, spell tokens `token_id:N`."""
    truncate_prompt_tokens: Annotated[int, AfterValidator(check_truncation)] | None = None
    """Keep only this many of the prompt's last tokens; -1 for as many as the context has room for."""
    user: str = Field("", max_length=512)
    """The unit of fair sharing between requests."""
    metadata: Metadata | None = None
    """Up to 16 pairs of strings, for the caller's own use; nothing is stored."""
    cache_salt: str = Field("", max_length=512)
    """Requests share the prefix cache only under equal salts."""
    priority: int = Field(0, ge=-(2**31), le=MAX_INT32)
    """Lower runs first."""
    service_tier: ServiceTier | None = None
    """`auto`, `default`, `flex` (yields to others) or `priority` (goes first); the answer names the one used."""
    timeout: float | None = Field(None, ge=0.001, le=MAX_TIMEOUT_S)
    """Seconds after which the request fails with 504; the header `X-Request-Timeout` says the same."""
    request_id: str | None = Field(None, pattern=REQUEST_ID)
    """Becomes part of the answer's `id`."""
    timings: bool | None = None
    """Add `timings` to the answer, in a stream to its last chunk; by default as `--enable-timings` says."""

    @model_validator(mode="after")
    def _check_combinations(self) -> "GenerationBody":
        if self.stream_options is not None and not self.stream:
            raise InvalidRequestError("stream_options needs stream", param="stream_options")
        if self.prompt_logprobs is not None and self.stream:
            raise InvalidRequestError("prompt_logprobs cannot be streamed", param="prompt_logprobs")
        has_format = self.response_format is not None and self.response_format.type != "text"
        if has_format and self.structured_outputs is not None:
            raise InvalidRequestError("give either response_format or structured_outputs", param="structured_outputs")
        return self

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """`stop` as a tuple."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def num_max_tokens(self) -> int | None:
        """Most tokens to generate, or None if the client leaves it to the server."""
        return self.max_tokens

    @property
    def answers_per_prompt(self) -> int:
        """How many answers are generated for each prompt."""
        return self.n

    @property
    def num_answers(self) -> int:
        """How many requests this is for the engine: prompts times answers for each."""
        return self.answers_per_prompt

    @property
    def num_logprobs(self) -> int | None:
        """How many best tokens are reported with each token of the answer; None reports nothing, not even its own."""
        return None

    @property
    def num_echoed_logprobs(self) -> int | None:
        """The same for the tokens of the prompt, where they are part of the answer."""
        return None
