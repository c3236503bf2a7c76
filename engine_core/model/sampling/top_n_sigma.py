"""`top_n_sigma`: only tokens whose logits are near the largest one can be sampled.

Logits of a language model look like a normal distribution of noise with a few informative ones far above it. What is
farther below the largest logit than so many standard deviations of the row is forbidden (Tang et al., *Top-n-sigma:
Not All Logits Are You Need*, 2024). A temperature scales both, so the kept tokens are the same at any temperature.
Called by `sampler.py`, after everything else that changes logits.
Invariant: a row's kept tokens depend on that row alone, bit for bit; the largest logit is always kept.
docs/extending.md walks through how this rule was added.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from engine_core.model.sampling.draw import row_sums
from engine_core.model.sampling.state import SamplingState


@dataclass(frozen=True, slots=True)
class TopNSigma:
    """The rows that use it."""

    rows: torch.Tensor
    """`[num_used]`: which rows."""
    num_sigmas: torch.Tensor
    """`[num_used, 1]` fp64: how many standard deviations below the largest logit each of them keeps."""

    @classmethod
    def build(cls, states: Sequence[SamplingState], device: torch.device) -> Self | None:
        """None where no row uses it."""
        used = [(row, state.params.top_n_sigma) for row, state in enumerate(states) if state.params.top_n_sigma > 0]
        if not used:
            return None
        rows, num_sigmas = zip(*used, strict=True)
        return cls(
            torch.tensor(rows, dtype=torch.int64, device=device),
            torch.tensor(num_sigmas, dtype=torch.float64, device=device)[:, None],
        )

    def apply(self, logits: torch.Tensor) -> None:
        """Forbid what is too far below the best, in `[num_rows, vocab_size]` fp32 logits."""
        chosen = logits[self.rows]
        least = chosen.amax(dim=-1, keepdim=True) - self.num_sigmas * _standard_deviations(chosen)
        logits[self.rows] = chosen.masked_fill_(chosen < least, -math.inf)


def _standard_deviations(logits: torch.Tensor) -> torch.Tensor:
    """`[rows, 1]` fp64, of the logits that are not forbidden; NaN, which forbids nothing, where there are none."""
    is_allowed = logits > -math.inf
    num_allowed = is_allowed.sum(dim=-1, keepdim=True)
    means = row_sums(logits.where(is_allowed, 0.0)) / num_allowed
    deviations = (logits - means.float()).where(is_allowed, 0.0)
    return (row_sums(deviations.square_()) / num_allowed).sqrt()
