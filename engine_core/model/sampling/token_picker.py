"""The last part of sampling: the largest logit of each row, or a draw by temperature, min_p, top_k and top_p.

Called by `sampler.py` once all wishes about single logits are applied. `TorchTokenPicker` works everywhere; on a CPU
with kernels, `native_token_picker.py` does the same in one pass. Invariant: a row's token depends on that row alone.
Next: `truncation.py`, `draw.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import torch

from engine_core.model.sampling.draw import draw, uniform_numbers
from engine_core.model.sampling.state import SamplingState
from engine_core.model.sampling.truncation import Truncation
from engine_core.model.sampling.verification import num_drafts_before

GREEDY_BELOW_TEMPERATURE = 1e-5
"""As in vLLM: dividing by less would overflow."""
_MASK_64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class RandomRows:
    """The rows that are drawn rather than greedy, with their parameters in columns."""

    rows: torch.Tensor
    states: tuple[SamplingState, ...]
    num_ahead: npt.NDArray[np.int64]
    """`[num_random]`: draft tokens before the row (`verification.py`)."""
    seeds: npt.NDArray[np.uint64]
    temperature: torch.Tensor
    """`[num_random, 1]` fp32."""
    truncation: Truncation | None

    @classmethod
    def build(cls, states: Sequence[SamplingState], vocab_size: int, device: torch.device) -> Self | None:
        """None where all rows are greedy."""
        rows = [row for row, state in enumerate(states) if state.params.temperature >= GREEDY_BELOW_TEMPERATURE]
        if not rows:
            return None
        params = [states[row].params for row in rows]
        return cls(
            torch.tensor(rows, dtype=torch.int64, device=device),
            tuple(states[row] for row in rows),
            num_drafts_before(states)[rows],
            np.array([item.seed & _MASK_64 for item in params], dtype=np.uint64),
            torch.tensor([[item.temperature] for item in params], dtype=torch.float32, device=device),
            Truncation.build(params, vocab_size, device),
        )

    def weights(self, logits: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
        """`[num_random, vocab_size]`: probabilities relative to the best token's, 0 where truncated."""
        if self.rows.shape[0] != logits.shape[0]:
            logits, best = logits[self.rows], best[self.rows]
        scores = (logits - best[:, None]).div_(self.temperature)
        if self.truncation is None:
            return scores.exp_()
        is_dropped = scores < self.truncation.thresholds(scores)
        return scores.exp_().masked_fill_(is_dropped, 0.0)

    def uniforms(self) -> npt.NDArray[np.float64]:
        """One number for each random row, at its current output position."""
        positions = np.array([state.num_output_tokens for state in self.states], dtype=np.int64)
        return uniform_numbers(self.seeds, positions + self.num_ahead)


@dataclass(frozen=True, slots=True)
class BestTokens:
    """The largest logit of each row."""

    values: torch.Tensor
    """`[num_rows]`; NaN where the row has any."""
    indices: torch.Tensor


@dataclass(frozen=True, slots=True)
class PickedTokens:
    """One token of each row."""

    token_ids: list[int]
    """Where the row's best is not finite, it means nothing."""
    best: list[float]
    """The largest logit of each row; NaN where the row has any."""


class TokenPicker(Protocol):
    """Picks tokens from logits to which nothing but temperature and truncation is left to be applied."""

    def pick(self, logits: torch.Tensor, random: RandomRows | None) -> PickedTokens:
        """One token for each row of `[num_rows, vocab_size]` fp32 logits, which may be overwritten.

        Args:
            logits: what must not be picked is minus infinity.
            random: the rows that are drawn; the others, and all where it is None, take the largest logit.
        """
        ...


class TorchTokenPicker:
    """In torch, on any device: what the kernels are tested against."""

    def pick(self, logits: torch.Tensor, random: RandomRows | None) -> PickedTokens:
        """See `TokenPicker`."""
        best = best_tokens(logits)
        token_ids = best.indices
        if random is not None:
            token_ids = token_ids.index_copy(0, random.rows, _draw(logits, best.values, random))
        return PickedTokens(token_ids.tolist(), best.values.tolist())


TORCH_PICKER = TorchTokenPicker()


def best_tokens(logits: torch.Tensor) -> BestTokens:
    """The argmax of each row."""
    if logits.device.type != "cpu":
        return BestTokens(logits.amax(dim=-1), logits.argmax(dim=-1))
    # numpy's argmax is vectorized and takes a fraction of the time of torch's
    return BestTokens(logits.amax(dim=-1), torch.from_numpy(logits.numpy().argmax(axis=-1)))


def _draw(logits: torch.Tensor, best: torch.Tensor, random: RandomRows) -> torch.Tensor:
    """`[num_random]` token ids."""
    is_finite = torch.isfinite(best)
    if not bool(is_finite.all()):  # any numbers will do for a row whose token nobody takes
        logits, best = logits.masked_fill(~is_finite[:, None], 0.0), best.masked_fill(~is_finite, 0.0)
    uniforms = torch.from_numpy(random.uniforms()).to(logits.device)
    return draw(random.weights(logits, best), uniforms[:, None])
