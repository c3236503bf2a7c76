"""`SamplingParams` as a Python program gives them: vLLM's names and defaults, checked as the fields of an HTTP body.

They become a body's fields in `completion_fields` and `chat_fields`; ranges are checked when a prompt is prepared,
before anything runs. `ipc.sampling_params.SamplingParams` is what becomes of them for the engine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

Fields = dict[str, Any]
"""Of a body, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How an answer is generated."""

    n: int = 1
    """Answers for each prompt; the n-th has `seed + n`."""
    max_tokens: int | None = 16
    """Most tokens to generate, or None for as many as the context holds."""
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
    """Answers with equal seeds draw alike; random where not given."""
    presence_penalty: float = 0.0
    """Lower the logits of tokens that the answer has already; -2 to 2."""
    frequency_penalty: float = 0.0
    """Lower the logit of a token by this for each time that the answer has it; -2 to 2."""
    repetition_penalty: float = 1.0
    """Scale down the logits of tokens in the prompt or the answer; 0.01 to 100."""
    logit_bias: Mapping[int, float] | None = None
    """Token id → number from -100 to 100 that is added to its logit."""
    allowed_token_ids: Sequence[int] | None = None
    """Only these tokens can be sampled."""
    bad_words: Sequence[str] = ()
    """Texts that the answer must not contain."""
    stop: str | Sequence[str] = ()
    """Strings that end the answer."""
    stop_token_ids: Sequence[int] = ()
    """Tokens that end the answer."""
    ignore_eos: bool = False
    """Go on past the end-of-sequence token."""
    include_stop_str_in_output: bool = False
    """The stop string or token is part of the text."""
    skip_special_tokens: bool = True
    """Special tokens are not part of the text."""
    logprobs: int | None = None
    """Log-probabilities of the answer's tokens and of this many best ones at each position."""
    prompt_logprobs: int | None = None
    """The same for the tokens of the prompt."""
    structured_outputs: Mapping[str, Any] | None = None
    """What the answer must match: one of `json` (a schema), `json_object`, `regex`, `choice`, `grammar` (Lark)."""
    truncate_prompt_tokens: int | None = None
    """Keep only this many of the prompt's last tokens; -1 for as many as the context has room for."""

    def completion_fields(self) -> Fields:
        """As fields of `POST /v1/completions`."""
        values = {item.name: _as_json(getattr(self, item.name)) for item in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def chat_fields(self) -> Fields:
        """As fields of `POST /v1/chat/completions`."""
        values = self.completion_fields()
        num_best = values.pop("logprobs", None)
        return values if num_best is None else {**values, "logprobs": True, "top_logprobs": num_best}


def _as_json(value: Any) -> Any:
    """Lists and dicts, which is what bodies are checked for."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return list(value)
    return value
