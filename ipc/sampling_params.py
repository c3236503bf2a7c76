"""What a request asks of the sampler, with the limits that frontends and core both enforce.

Invariant: an instance that passed `validate` can be given to the sampler as it is.
Next: `engine_core/model/sampler.py` applies it.
"""

import math
from dataclasses import dataclass

from ipc.errors import InvalidRequestError

MAX_SEED = 2**63 - 1
MAX_STOP_TOKEN_IDS = 1024


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Generation parameters of one request, in vLLM's sense of each name."""

    max_tokens: int
    """Most tokens to generate, at least 1."""
    min_tokens: int = 0
    """EOS and `stop_token_ids` cannot be sampled before this many tokens."""
    temperature: float = 1.0
    """0 means greedy (argmax), which ignores every other field of the distribution."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probability reaches this; 1 keeps all."""
    top_k: int = 0
    """Keep this many most probable tokens; 0 keeps all."""
    min_p: float = 0.0
    """Drop tokens less probable than `min_p` times the most probable one."""
    seed: int = 0
    """The draw for output position i depends on (seed, i) alone: see `engine_core/model/sampler.py`."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer besides EOS; the token itself is not part of the text."""
    ignore_eos: bool = False
    """Generate on past EOS, up to `max_tokens`."""

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
        if len(self.stop_token_ids) > MAX_STOP_TOKEN_IDS:
            raise InvalidRequestError(f"at most {MAX_STOP_TOKEN_IDS} stop_token_ids", param="stop_token_ids")
        for token_id in self.stop_token_ids:
            check_range("stop_token_ids", token_id, 0, vocab_size - 1)


def check_range(param: str, value: float, low: float, high: float) -> None:
    """Raise `InvalidRequestError` unless `low <= value <= high`; NaN is never inside."""
    if math.isnan(value) or not low <= value <= high:
        raise InvalidRequestError(f"{param} must be between {low} and {high}", param=param)
