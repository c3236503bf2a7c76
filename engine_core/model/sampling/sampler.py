"""Picks one token per row of logits, every row by its own parameters. Order as in vLLM:

raw logprobs are taken; fp32; grammar mask; allowed ids, bad words, `min_tokens`, logit bias; repetition, frequency,
presence penalty; argmax where greedy; temperature; `min_p`, `top_k`, `top_p`; draw.

Called by `batch_sampler.py` once per step. Invariants: nothing but the logits is changed, so the same call can be
made again; every row depends on itself alone, bit for bit; a feature that no row uses costs nothing.
Next: the modules of this package, in the order above.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from engine_core.model.sampling.draw import draw, uniform_numbers
from engine_core.model.sampling.grammar_masks import NO_MASKS, GrammarMasks
from engine_core.model.sampling.logits_processors import AllowedTokens, BadWords, LogitBias, LogitsProcessor, MinTokens
from engine_core.model.sampling.logprobs import logprob_columns
from engine_core.model.sampling.penalties import Penalties
from engine_core.model.sampling.state import SamplingState
from engine_core.model.sampling.truncation import Truncation
from engine_core.model.sampling.verification import num_drafts_before
from engine_core.outputs import Logprobs

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
class SamplingMetadata:
    """Parameters of a batch; made anew only when its membership changes."""

    processors: tuple[LogitsProcessor, ...]
    """In the order in which they are applied."""
    random: RandomRows | None
    logprob_rows: dict[int, int]
    """Rows that report logprobs, and of how many best tokens."""


@dataclass(frozen=True, slots=True)
class BestTokens:
    """The largest logit of each row."""

    values: torch.Tensor
    """`[num_rows]`; NaN where the row has any."""
    indices: torch.Tensor


@dataclass(frozen=True, slots=True)
class SampledToken:
    """What one row gave; where `failure` is set, the rest means nothing."""

    token_id: int
    failure: str = ""
    """`nan_logits`, or `no_token_left` where all tokens are forbidden."""
    logprobs: Logprobs | None = None


def build_sampling_metadata(
    states: Sequence[SamplingState], eos_token_ids: Sequence[int], vocab_size: int, device: torch.device
) -> SamplingMetadata:
    """Put the parameters of each row into columns on `device`."""
    processors = (
        AllowedTokens.build(states, device),
        BadWords.build(states),
        MinTokens.build(states, eos_token_ids, device),
        LogitBias.build(states, device),
        Penalties.build(states, device),
    )
    return SamplingMetadata(
        tuple(item for item in processors if item is not None),
        RandomRows.build(states, vocab_size, device),
        {row: state.params.num_logprobs for row, state in enumerate(states) if state.params.num_logprobs >= 0},
    )


def sample(logits: torch.Tensor, metadata: SamplingMetadata, masks: GrammarMasks = NO_MASKS) -> list[SampledToken]:
    """Pick one token per row.

    Args:
        logits: `[num_rows, vocab_size]`, any float type; overwritten where it is fp32.
        metadata: made for these rows.
        masks: what the rows' grammars allow.
    """
    logits = logits.float()
    raw = logits[list(metadata.logprob_rows)] if metadata.logprob_rows else None
    masks.apply(logits)
    best = process_logits(logits, metadata)
    token_ids = best.indices
    if metadata.random is not None:
        drawn = _draw(logits, best.values, metadata.random)
        token_ids = token_ids.index_copy(0, metadata.random.rows, drawn)
    sampled = [
        SampledToken(token_id, _failure(value))
        for token_id, value in zip(*_to_host(token_ids, best.values), strict=True)
    ]
    if raw is not None:
        _add_logprobs(sampled, raw, token_ids, metadata.logprob_rows)
    return sampled


def process_logits(logits: torch.Tensor, metadata: SamplingMetadata) -> BestTokens:
    """Apply everything that comes before the temperature, in place."""
    for processor in metadata.processors:
        processor.apply(logits)
    if logits.device.type != "cpu":
        return BestTokens(*logits.max(dim=-1))
    # numpy's argmax is vectorized and takes a fraction of the time of torch's
    return BestTokens(logits.amax(dim=-1), torch.from_numpy(logits.numpy().argmax(axis=-1)))


def _to_host(token_ids: torch.Tensor, values: torch.Tensor) -> tuple[list[int], list[float]]:
    """Both as lists; from a GPU in one copy, as each waits for the device. fp64 holds both exactly."""
    if token_ids.device.type == "cpu":
        return token_ids.tolist(), values.tolist()
    columns = torch.stack((token_ids.double(), values.double())).cpu()
    return columns[0].long().tolist(), columns[1].tolist()


def _draw(logits: torch.Tensor, best: torch.Tensor, random: RandomRows) -> torch.Tensor:
    """`[num_random]` token ids."""
    is_finite = torch.isfinite(best)
    # Any numbers will do for a row whose token nobody takes; to ask whether there is one would stop a GPU.
    if logits.device.type != "cpu" or not bool(is_finite.all()):
        logits, best = logits.masked_fill(~is_finite[:, None], 0.0), best.masked_fill(~is_finite, 0.0)
    uniforms = torch.from_numpy(random.uniforms()).to(logits.device)
    return draw(random.weights(logits, best), uniforms[:, None])


def _failure(best: float) -> str:
    """The error code of a row with this largest logit, which is NaN where any is."""
    if math.isfinite(best):
        return ""
    return "no_token_left" if best == -math.inf else "nan_logits"


def _add_logprobs(
    sampled: list[SampledToken], raw: torch.Tensor, token_ids: torch.Tensor, num_top_of_row: dict[int, int]
) -> None:
    rows = list(num_top_of_row)
    columns = logprob_columns(raw, token_ids[rows], max(num_top_of_row.values()))
    for index, (row, num_top) in enumerate(num_top_of_row.items()):
        token = sampled[row]
        sampled[row] = SampledToken(token.token_id, token.failure, columns.row(index, num_top))
