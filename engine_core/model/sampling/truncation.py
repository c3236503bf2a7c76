"""min_p, top_k, top_p, in this order: exact, and cheap where the kept tokens are few.

Each of the three keeps the tokens above a threshold (ties with the last kept token are kept), so the kept set of a row
depends on that row alone. Called by `sampler.py` for the rows that are drawn. Next: `draw.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from engine_core.model.sampling.draw import row_sums
from ipc.sampling_params import SamplingParams

SHORTLIST_SIZE = 256
"""The most probable tokens that are looked at before a whole row is sorted."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """`top_k` and `top_p` of the rows that use either."""

    rows: torch.Tensor
    """`[num_ranked]`: which rows."""
    top_k: torch.Tensor
    """`[num_ranked, 1]`; the vocabulary's size where it is off."""
    top_p: torch.Tensor
    """`[num_ranked, 1]` fp64."""

    @classmethod
    def build(cls, params: Sequence[SamplingParams], vocab_size: int, device: torch.device) -> Self | None:
        """None where no row uses them."""
        top_k = [item.top_k if 0 < item.top_k < vocab_size else vocab_size for item in params]
        rows = [row for row, item in enumerate(params) if top_k[row] < vocab_size or item.top_p < 1.0]
        if not rows:
            return None
        return cls(
            torch.tensor(rows, dtype=torch.int64, device=device),
            torch.tensor([[top_k[row]] for row in rows], dtype=torch.int64, device=device),
            torch.tensor([[params[row].top_p] for row in rows], dtype=torch.float64, device=device),
        )


@dataclass(frozen=True, slots=True)
class Truncation:
    """What the rows of a batch cut off."""

    log_min_p: torch.Tensor | None
    """`[num_rows, 1]` fp32: least log of the probability relative to the best; None where no row uses min_p."""
    ranking: Ranking | None

    @classmethod
    def build(cls, params: Sequence[SamplingParams], vocab_size: int, device: torch.device) -> Self | None:
        """None where every row keeps every token."""
        log_min_p = None
        if any(item.min_p > 0 for item in params):
            column = [[math.log(item.min_p) if item.min_p > 0 else -math.inf] for item in params]
            log_min_p = torch.tensor(column, dtype=torch.float32, device=device)
        ranking = Ranking.build(params, vocab_size, device)
        return cls(log_min_p, ranking) if log_min_p is not None or ranking is not None else None

    def thresholds(self, scores: torch.Tensor) -> torch.Tensor:
        """`[num_rows, 1]`: least score that each row keeps.

        Args:
            scores: `[num_rows, vocab_size]` fp32: logarithms of the probabilities relative to the row's best.
        """
        minimum = self.log_min_p
        if minimum is None:
            minimum = scores.new_full((scores.shape[0], 1), -math.inf)
        return minimum if self.ranking is None else _by_rank(scores, minimum, self.ranking)


def _by_rank(scores: torch.Tensor, minimum: torch.Tensor, ranking: Ranking) -> torch.Tensor:
    """`minimum`, raised where top_k or top_p keep less.

    A shortlist decides where it holds all of the top k, and top_p's mass; other rows are sorted whole.
    """
    least = minimum[ranking.rows]
    if ranking.rows.shape[0] != scores.shape[0]:
        scores = scores[ranking.rows]
    shortlist = _best_descending(scores, min(SHORTLIST_SIZE, scores.shape[-1]))
    found, is_exact = _thresholds_in(shortlist, scores, least, ranking.top_k, ranking.top_p)
    rows = torch.nonzero(~is_exact[:, 0])[:, 0]
    if rows.shape[0] > 0:
        ranked = _sorted_descending(scores[rows])
        found[rows], _ = _thresholds_in(ranked, scores[rows], least[rows], ranking.top_k[rows], ranking.top_p[rows])
    return minimum.index_copy(0, ranking.rows, found)


def _thresholds_in(
    ranked: torch.Tensor, scores: torch.Tensor, minimum: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Thresholds by the `[rows, size]` best scores of each row, and whether those were enough to know them."""
    size, vocab_size = ranked.shape[-1], scores.shape[-1]
    by_top_k = ranked.gather(-1, top_k.clamp(max=size) - 1).masked_fill_(top_k == vocab_size, -math.inf)
    kept = torch.maximum(by_top_k, minimum)
    is_exact = (top_k == vocab_size) | (top_k <= size)
    if not bool((top_p < 1.0).any()):
        return kept, is_exact
    total = row_sums(scores.exp().masked_fill_(scores < kept, 0.0))
    mass = ranked.exp().masked_fill_(ranked < kept, 0.0).cumsum(dim=-1, dtype=torch.float64)
    num_kept = (mass < top_p * total).sum(dim=-1, keepdim=True) + 1
    by_top_p = ranked.gather(-1, num_kept.clamp(max=size) - 1).masked_fill_(top_p >= 1.0, -math.inf)
    is_exact &= (top_p >= 1.0) | (mass[:, -1:] >= top_p * total)
    return torch.maximum(kept, by_top_p), is_exact


def _best_descending(scores: torch.Tensor, size: int) -> torch.Tensor:
    """The `size` best values of each row; numpy takes half the time of torch's `topk`, for the reason below."""
    if scores.device.type != "cpu":
        return scores.topk(size, dim=-1).values
    best = np.partition(scores.numpy(), scores.shape[-1] - size, axis=-1)[:, -size:]
    return _sorted_descending(torch.from_numpy(best))


def _sorted_descending(scores: torch.Tensor) -> torch.Tensor:
    """Values alone: numpy's vectorized sort takes a tenth of the time of torch's, which carries indexes along."""
    if scores.device.type != "cpu":
        return scores.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(scores.numpy(), axis=-1)).flip(-1)
