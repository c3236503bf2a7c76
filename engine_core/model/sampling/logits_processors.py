"""Changes of single logits by a request's own wishes: allowed tokens, bad words, `min_tokens`, logit bias.

`sampler.py` builds those that some row uses, when the membership of the batch changes, and applies them in the order
of this file, each in place on `[num_rows, vocab_size]` fp32 logits. What must not be sampled becomes minus infinity.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch

from engine_core.model.sampling.bad_words import BadWordIndex
from engine_core.model.sampling.state import SamplingState


class LogitsProcessor(Protocol):
    """A feature that some rows of the batch use."""

    def apply(self, logits: torch.Tensor) -> None:
        """Change `[num_rows, vocab_size]` fp32 logits in place."""
        ...


@dataclass(frozen=True, slots=True)
class AllowedTokens:
    """`allowed_token_ids`: nothing else can be sampled."""

    rows: tuple[tuple[int, torch.Tensor], ...]
    """Row and its allowed ids."""

    @classmethod
    def build(cls, states: Sequence[SamplingState], device: torch.device) -> Self | None:
        """None where no row uses it."""
        wishes = [(row, state.allowed_token_ids) for row, state in enumerate(states)]
        rows = tuple((row, torch.from_numpy(allowed).to(device)) for row, allowed in wishes if len(allowed))
        return cls(rows) if rows else None

    def apply(self, logits: torch.Tensor) -> None:
        """Forbid the others."""
        for row, allowed in self.rows:
            kept = logits[row, allowed]
            logits[row] = -math.inf
            logits[row, allowed] = kept


@dataclass(frozen=True, slots=True)
class BadWords:
    """`bad_words_token_ids`: after all but the last token of a word, the last is forbidden (`bad_words.py`)."""

    rows: tuple[tuple[int, SamplingState, BadWordIndex], ...]

    @classmethod
    def build(cls, states: Sequence[SamplingState]) -> Self | None:
        """None where no row uses it."""
        rows = tuple((row, state, state.bad_words) for row, state in enumerate(states) if state.bad_words is not None)
        return cls(rows) if rows else None

    def apply(self, logits: torch.Tensor) -> None:
        """Forbid what would complete a word."""
        rows: list[int] = []
        token_ids: list[int] = []
        for row, state, bad_words in self.rows:
            forbidden = bad_words.forbidden_after(state.output_token_ids)
            rows += [row] * len(forbidden)
            token_ids += forbidden
        if rows:
            logits[_ids(rows, logits.device), _ids(token_ids, logits.device)] = -math.inf


@dataclass(frozen=True, slots=True)
class MinTokens:
    """`min_tokens`: EOS and stop tokens are forbidden until then.

    Where a grammar allows nothing else the answer may end early: the alternative would be an answer that breaks it.
    """

    rows: tuple[tuple[int, SamplingState, torch.Tensor], ...]
    """Row, its state, and the ids that are forbidden at first."""

    @classmethod
    def build(cls, states: Sequence[SamplingState], eos_token_ids: Sequence[int], device: torch.device) -> Self | None:
        """None where no row has to wait any more."""
        rows = []
        for row, state in enumerate(states):
            params = state.params
            if state.num_output_tokens < params.min_tokens:
                forbidden = {*params.stop_token_ids, *(() if params.ignore_eos else eos_token_ids)}
                if forbidden:
                    rows.append((row, state, _ids(sorted(forbidden), device)))
        return cls(tuple(rows)) if rows else None

    def apply(self, logits: torch.Tensor) -> None:
        """Forbid the tokens that would end the answer."""
        for row, state, forbidden in self.rows:
            if state.num_output_tokens < state.params.min_tokens:
                ending = logits[row, forbidden]
                logits[row, forbidden] = -math.inf
                if state.has_grammar and bool(logits[row].max() == -math.inf):
                    logits[row, forbidden] = ending


@dataclass(frozen=True, slots=True)
class LogitBias:
    """`logit_bias`: numbers added to single logits."""

    rows: torch.Tensor
    """`[num_biases]`."""
    token_ids: torch.Tensor
    values: torch.Tensor
    """`[num_biases]` fp32."""

    @classmethod
    def build(cls, states: Sequence[SamplingState], device: torch.device) -> Self | None:
        """None where no row uses it."""
        found = [(row, state) for row, state in enumerate(states) if len(state.bias_values)]
        if not found:
            return None
        rows = np.repeat([row for row, _ in found], [len(state.bias_values) for _, state in found])
        token_ids = np.concatenate([state.bias_token_ids for _, state in found])
        values = np.concatenate([state.bias_values for _, state in found])
        return cls(*(torch.from_numpy(column).to(device) for column in (rows, token_ids, values)))

    def apply(self, logits: torch.Tensor) -> None:
        """Add the biases."""
        logits[self.rows, self.token_ids] += self.values


def _ids(values: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)
