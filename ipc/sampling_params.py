"""What a request asks of the sampler, with the limits that frontends and core both enforce.

Invariant: an instance that passed `validate` can be given to the sampler as it is.
Next: `engine_core/model/sampling/sampler.py` applies it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ipc.errors import InvalidRequestError
from ipc.structured_output import NO_STRUCTURE, StructuredOutput

MAX_SEED = 2**63 - 1
MAX_STOP_TOKEN_IDS = 1024
MAX_ALLOWED_TOKEN_IDS = 2**16
MAX_LOGIT_BIASES = 4096
MAX_BAD_WORDS = 1024
MAX_BAD_WORD_TOKENS = 64
MAX_LOGPROBS = 20
NO_LOGPROBS = -1


@dataclass(frozen=True, slots=True)
class TokenBias:
    """A number that is added to the logit of one token."""

    token_id: int
    bias: float


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Generation parameters of one request, in vLLM's sense of each name."""

    max_tokens: int
    """Most tokens to generate, at least 1."""
    min_tokens: int = 0
    """EOS and `stop_token_ids` cannot be sampled before this many tokens, unless a grammar allows nothing else."""
    temperature: float = 1.0
    """0 means greedy (argmax), which ignores every other field of the distribution."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probability reaches this; 1 keeps all."""
    top_k: int = 0
    """Keep this many most probable tokens; 0 keeps all."""
    min_p: float = 0.0
    """Drop tokens less probable than `min_p` times the most probable one."""
    seed: int = 0
    """The draw for output position i depends on (seed, i) alone: see `engine_core/model/sampling/draw.py`."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer besides EOS; the token itself is not part of the text."""
    ignore_eos: bool = False
    """Generate on past EOS, up to `max_tokens` or the end of the grammar."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for each time that the answer has it already."""
    presence_penalty: float = 0.0
    """Subtracted once from the logit of each token that the answer has already."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens that the prompt or the answer has already."""
    logit_bias: tuple[TokenBias, ...] = ()
    """Added to the logits before the penalties."""
    allowed_token_ids: tuple[int, ...] = ()
    """Only these can be sampled; empty allows all."""
    bad_words_token_ids: tuple[tuple[int, ...], ...] = ()
    """Token sequences that the answer must not contain: the last token is forbidden after the ones before it."""
    num_logprobs: int = NO_LOGPROBS
    """Report each sampled token's log-probability and rank, and those of this many best tokens; -1 reports nothing."""
    num_prompt_logprobs: int = NO_LOGPROBS
    """The same for each token of the prompt but the first."""
    structured_output: StructuredOutput = NO_STRUCTURE
    """The grammar that the answer must follow."""
    top_n_sigma: float = 0.0
    """Drop tokens whose logits are more than this many standard deviations below the largest; 0 keeps all."""

    @property
    def has_penalties(self) -> bool:
        """True where tokens that were there before get other logits."""
        return self.frequency_penalty != 0 or self.presence_penalty != 0 or self.repetition_penalty != 1

    def validate(self, vocab_size: int) -> None:
        """Check every field against its closed interval.

        Raises:
            InvalidRequestError: with `param` naming the first field that is out of range.
        """
        check_range("max_tokens", self.max_tokens, 1, 2**31 - 1)
        check_range("min_tokens", self.min_tokens, 0, self.max_tokens)
        check_range("temperature", self.temperature, 0.0, 2.0)
        if not 0.0 < self.top_p <= 1.0:
            raise InvalidRequestError("top_p must be in (0, 1]", param="top_p")
        check_range("top_k", self.top_k, 0, 2**31 - 1)
        check_range("min_p", self.min_p, 0.0, 1.0)
        check_range("seed", self.seed, -MAX_SEED - 1, MAX_SEED)
        _check_token_ids("stop_token_ids", self.stop_token_ids, MAX_STOP_TOKEN_IDS, vocab_size)
        check_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        check_range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        check_range("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _check_token_ids("logit_bias", [item.token_id for item in self.logit_bias], MAX_LOGIT_BIASES, vocab_size)
        for item in self.logit_bias:
            check_range("logit_bias", item.bias, -100.0, 100.0)
        _check_token_ids("allowed_token_ids", self.allowed_token_ids, MAX_ALLOWED_TOKEN_IDS, vocab_size)
        if len(self.bad_words_token_ids) > MAX_BAD_WORDS:
            raise InvalidRequestError(f"at most {MAX_BAD_WORDS} bad_words", param="bad_words")
        for word in self.bad_words_token_ids:
            check_range("bad_words", len(word), 1, MAX_BAD_WORD_TOKENS)
            _check_token_ids("bad_words", word, MAX_BAD_WORD_TOKENS, vocab_size)
        check_range("logprobs", self.num_logprobs, NO_LOGPROBS, MAX_LOGPROBS)
        check_range("prompt_logprobs", self.num_prompt_logprobs, NO_LOGPROBS, MAX_LOGPROBS)
        self.structured_output.validate()
        check_range("top_n_sigma", self.top_n_sigma, 0.0, 100.0)


def _check_token_ids(param: str, token_ids: Iterable[int], max_count: int, vocab_size: int) -> None:
    token_ids = list(token_ids)
    if len(token_ids) > max_count:
        raise InvalidRequestError(f"at most {max_count} {param}", param=param)
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
        raise InvalidRequestError(f"{param}: token ids must be between 0 and {vocab_size - 1}", param=param)


def check_range(param: str, value: float, low: float, high: float) -> None:
    """Raise `InvalidRequestError` unless `low <= value <= high`; NaN is never inside."""
    if math.isnan(value) or not low <= value <= high:
        raise InvalidRequestError(f"{param} must be between {low} and {high}", param=param)
