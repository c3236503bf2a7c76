"""Picks one token per row of logits, every row by its own parameters. Order as in vLLM:

raw logprobs are taken; fp32; grammar mask; allowed ids, bad words, `min_tokens`, logit bias; repetition, frequency,
presence penalty; `top_n_sigma`; argmax where greedy; temperature; `min_p`, `top_k`, `top_p`; draw.

Called by `batch_sampler.py` once per step. Invariants: nothing but the logits is changed, so the same call can be
made again; every row depends on itself alone, bit for bit; a feature that no row uses costs nothing.
Next: the modules of this package, in the order above.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine_core.model.sampling.grammar_masks import NO_MASKS, GrammarMasks
from engine_core.model.sampling.logits_processors import AllowedTokens, BadWords, LogitBias, LogitsProcessor, MinTokens
from engine_core.model.sampling.logprobs import logprob_columns
from engine_core.model.sampling.penalties import Penalties
from engine_core.model.sampling.state import SamplingState
from engine_core.model.sampling.token_picker import TORCH_PICKER, RandomRows, TokenPicker
from engine_core.model.sampling.top_n_sigma import TopNSigma
from engine_core.outputs import Logprobs


@dataclass(frozen=True, slots=True)
class SamplingMetadata:
    """Parameters of a batch; made anew only when its membership changes."""

    processors: tuple[LogitsProcessor, ...]
    """In the order in which they are applied."""
    random: RandomRows | None
    logprob_rows: dict[int, int]
    """Rows that report logprobs, and of how many best tokens."""


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
        TopNSigma.build(states, device),
    )
    return SamplingMetadata(
        tuple(item for item in processors if item is not None),
        RandomRows.build(states, vocab_size, device),
        {row: state.params.num_logprobs for row, state in enumerate(states) if state.params.num_logprobs >= 0},
    )


def sample(
    logits: torch.Tensor, metadata: SamplingMetadata, masks: GrammarMasks = NO_MASKS, picker: TokenPicker = TORCH_PICKER
) -> list[SampledToken]:
    """Pick one token per row.

    Args:
        logits: `[num_rows, vocab_size]`, any float type; overwritten where it is fp32.
        metadata: made for these rows.
        masks: what the rows' grammars allow.
        picker: does the last part, from the argmax on.
    """
    logits = logits.float()
    raw = logits[list(metadata.logprob_rows)] if metadata.logprob_rows else None
    masks.apply(logits)
    process_logits(logits, metadata)
    picked = picker.pick(logits, metadata.random)
    sampled = [
        SampledToken(token_id, _failure(best)) for token_id, best in zip(picked.token_ids, picked.best, strict=True)
    ]
    if raw is not None:
        _add_logprobs(sampled, raw, picked.token_ids, metadata.logprob_rows)
    return sampled


def process_logits(logits: torch.Tensor, metadata: SamplingMetadata) -> None:
    """Apply everything that comes before the argmax and the temperature, in place."""
    for processor in metadata.processors:
        processor.apply(logits)


def _failure(best: float) -> str:
    """The error code of a row with this largest logit, which is NaN where any is."""
    if math.isfinite(best):
        return ""
    return "no_token_left" if best == -math.inf else "nan_logits"


def _add_logprobs(
    sampled: list[SampledToken], raw: torch.Tensor, token_ids: Sequence[int], num_top_of_row: dict[int, int]
) -> None:
    chosen = torch.tensor([token_ids[row] for row in num_top_of_row], device=raw.device)
    columns = logprob_columns(raw, chosen, max(num_top_of_row.values()))
    for index, (row, num_top) in enumerate(num_top_of_row.items()):
        token = sampled[row]
        sampled[row] = SampledToken(token.token_id, token.failure, columns.row(index, num_top))
