"""Picks one token per row of logits, every row by its own parameters.

Called by `model_runner.py` once per step. Order as in vLLM: fp32, `min_tokens` masks EOS and stop ids, argmax where
greedy, temperature, `min_p`, `top_k`, `top_p`, draw. Each of the three filters keeps the tokens above a threshold
(ties with the last kept token are kept), so the kept set of a row depends on that row alone.

The draw for output position i of a request is the inverse of its cumulative distribution, in order of token id, at
one uniform number made from (seed, i): the same whatever else is in the batch, however the prompt was chunked, and
after a preemption or a restart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ipc.sampling_params import SamplingParams

SHORTLIST_SIZE = 256
"""The most probable tokens that are looked at before a whole row is sorted."""
GREEDY_BELOW_TEMPERATURE = 1e-5
"""As in vLLM: dividing by less would overflow."""
DRAW_GROUP_SIZE = 256

_MASK_64 = (1 << 64) - 1
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class RandomRows:
    """The rows that are drawn rather than greedy, with their parameters in columns."""

    rows: torch.Tensor
    seeds: npt.NDArray[np.uint64]
    temperature: torch.Tensor
    """`[num_random, 1]` fp32."""
    log_min_p: torch.Tensor | None
    """`[num_random, 1]` fp32: least log of the probability relative to the best; None where no row uses min_p."""
    truncated: torch.Tensor | None
    """Indexes among these rows of those with `top_k` or `top_p`; None where there are none."""
    top_k: torch.Tensor
    """`[num_truncated, 1]`; the vocabulary's size where it is off."""
    top_p: torch.Tensor
    """`[num_truncated, 1]` fp64."""


@dataclass(frozen=True, slots=True)
class SamplingMetadata:
    """Parameters of a batch; made anew only when its membership changes."""

    num_rows: int
    masked: tuple[tuple[int, int, torch.Tensor], ...]
    """Row, `min_tokens` and the ids forbidden until then."""
    random: RandomRows | None


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """One token per row; where `failed`, the token means nothing."""

    token_ids: list[int]
    failed: list[bool]
    """True where no finite largest logit exists: NaN, infinity, or nothing left to choose from."""


def build_sampling_metadata(
    params: Sequence[SamplingParams], eos_token_ids: Sequence[int], vocab_size: int, device: torch.device
) -> SamplingMetadata:
    """Put the parameters of each row into columns on `device`."""
    masked = []
    for row, item in enumerate(params):
        forbidden = {*item.stop_token_ids, *(() if item.ignore_eos else eos_token_ids)}
        if item.min_tokens > 0 and forbidden:
            ids = torch.tensor(sorted(forbidden), dtype=torch.int64, device=device)
            masked.append((row, item.min_tokens, ids))
    rows = [row for row, item in enumerate(params) if item.temperature >= GREEDY_BELOW_TEMPERATURE]
    random = _build_random_rows(rows, [params[row] for row in rows], vocab_size, device) if rows else None
    return SamplingMetadata(len(params), tuple(masked), random)


def _build_random_rows(
    rows: list[int], params: Sequence[SamplingParams], vocab_size: int, device: torch.device
) -> RandomRows:
    top_k = [item.top_k if 0 < item.top_k < vocab_size else vocab_size for item in params]
    truncated = [index for index, item in enumerate(params) if top_k[index] < vocab_size or item.top_p < 1.0]
    log_min_p = [math.log(item.min_p) if item.min_p > 0 else -math.inf for item in params]
    return RandomRows(
        rows=torch.tensor(rows, dtype=torch.int64, device=device),
        seeds=np.array([item.seed & _MASK_64 for item in params], dtype=np.uint64),
        temperature=torch.tensor([[item.temperature] for item in params], dtype=torch.float32, device=device),
        log_min_p=(
            torch.tensor([[value] for value in log_min_p], dtype=torch.float32, device=device)
            if any(item.min_p > 0 for item in params)
            else None
        ),
        truncated=torch.tensor(truncated, dtype=torch.int64, device=device) if truncated else None,
        top_k=torch.tensor([[top_k[index]] for index in truncated], dtype=torch.int64, device=device),
        top_p=torch.tensor([[params[index].top_p] for index in truncated], dtype=torch.float64, device=device),
    )


def sample(logits: torch.Tensor, metadata: SamplingMetadata, output_positions: npt.NDArray[np.int64]) -> SampledTokens:
    """Pick one token per row.

    Args:
        logits: `[num_rows, vocab_size]`, any float type; not changed.
        metadata: made for these rows.
        output_positions: `[num_rows]`: output tokens that each request has already.
    """
    logits = logits.float()
    active = [(row, ids) for row, min_tokens, ids in metadata.masked if output_positions[row] < min_tokens]
    if active:
        logits = logits.clone()
        for row, ids in active:
            logits[row, ids] = -math.inf
    best, token_ids = logits.max(dim=-1)
    failed = ~torch.isfinite(best)  # max of a row with NaN is NaN
    if metadata.random is not None:
        if bool(failed.any()):  # any numbers will do for a row whose token nobody takes
            logits, best = logits.masked_fill(failed[:, None], 0.0), best.masked_fill(failed, 0.0)
        drawn = _sample_random(logits, best, metadata.random, output_positions)
        token_ids = token_ids.index_copy(0, metadata.random.rows, drawn)
    return SampledTokens(token_ids.tolist(), failed.tolist())


def uniform_numbers(seeds: npt.NDArray[np.uint64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each (seed, output position).

    splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014) of the mixed seed, so that
    neighbouring seeds, as `n > 1` makes them, give unrelated streams.
    """
    state = _mix(seeds + _GAMMA) + (positions.astype(np.uint64) + np.uint64(1)) * _GAMMA
    return (_mix(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _sample_random(
    logits: torch.Tensor, best: torch.Tensor, random: RandomRows, output_positions: npt.NDArray[np.int64]
) -> torch.Tensor:
    """Draw for the random rows among `[num_rows, vocab_size]` logits; returns `[num_random]` token ids."""
    if random.rows.shape[0] != logits.shape[0]:
        logits, best = logits[random.rows], best[random.rows]
        output_positions = output_positions[random.rows.cpu().numpy()]
    uniforms = torch.from_numpy(uniform_numbers(random.seeds, output_positions)).to(logits.device)
    scores = (logits - best[:, None]).div_(random.temperature)  # log of the probability relative to the best token's
    threshold = random.log_min_p
    if random.truncated is not None:
        threshold = _truncation_thresholds(scores, threshold, random.truncated, random.top_k, random.top_p)
    if threshold is None:
        return draw(scores.exp_(), uniforms[:, None])
    return draw(scores.exp().masked_fill_(scores < threshold, 0.0), uniforms[:, None])


def _truncation_thresholds(
    scores: torch.Tensor,
    minimum: torch.Tensor | None,
    truncated: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
) -> torch.Tensor:
    """Least score that each row keeps, `[num_random, 1]`: by min_p (`minimum`), then `top_k`, then `top_p`.

    A shortlist decides where it holds all of the top k, and top_p's mass; other rows are sorted whole.
    """
    thresholds = scores.new_full((scores.shape[0], 1), -math.inf) if minimum is None else minimum.clone()
    if truncated.shape[0] != scores.shape[0]:
        scores = scores[truncated]
    least = thresholds[truncated]
    shortlist = scores.topk(min(SHORTLIST_SIZE, scores.shape[-1]), dim=-1).values
    found, is_exact = _thresholds_in(shortlist, scores, least, top_k, top_p)
    rows = torch.nonzero(~is_exact[:, 0])[:, 0]
    if rows.shape[0] > 0:
        ranked = _sorted_descending(scores[rows])
        found[rows], _ = _thresholds_in(ranked, scores[rows], least[rows], top_k[rows], top_p[rows])
    thresholds[truncated] = found
    return thresholds


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
    total = scores.exp().masked_fill_(scores < kept, 0.0).sum(dim=-1, keepdim=True, dtype=torch.float64)
    mass = ranked.exp().masked_fill_(ranked < kept, 0.0).cumsum(dim=-1, dtype=torch.float64)
    num_kept = (mass < top_p * total).sum(dim=-1, keepdim=True) + 1
    by_top_p = ranked.gather(-1, num_kept.clamp(max=size) - 1).masked_fill_(top_p >= 1.0, -math.inf)
    is_exact &= (top_p >= 1.0) | (mass[:, -1:] >= top_p * total)
    return torch.maximum(kept, by_top_p), is_exact


def _sorted_descending(scores: torch.Tensor) -> torch.Tensor:
    """Values alone: numpy's vectorized sort takes a tenth of the time of torch's, which carries indexes along."""
    if scores.device.type != "cpu":
        return scores.sort(dim=-1, descending=True).values
    return torch.from_numpy(np.sort(scores.numpy(), axis=-1)).flip(-1)


def draw(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Invert each row's cumulative distribution, in order of token id.

    Args:
        weights: `[rows, vocab_size]`, not negative, not normalized.
        uniforms: `[rows, 1]` fp64 in [0, 1).

    Returns:
        `[rows]` ids of tokens with a positive weight. Two levels (sums of groups, then one group) in fp64, so a row
        of 100,000 tokens costs one pass and no long cumulative sum.
    """
    rows, vocab_size = weights.shape
    num_groups = -(-vocab_size // DRAW_GROUP_SIZE)
    padding = num_groups * DRAW_GROUP_SIZE - vocab_size
    grouped = (torch.nn.functional.pad(weights, (0, padding)) if padding else weights).view(
        rows, num_groups, DRAW_GROUP_SIZE
    )
    group_ends = grouped.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    target = uniforms * group_ends[:, -1:]
    group = _first_above(group_ends, target)
    before = torch.where(group > 0, group_ends.gather(-1, (group - 1).clamp_(min=0)), 0.0)
    inside = grouped[torch.arange(rows, device=weights.device), group[:, 0]].cumsum(dim=-1, dtype=torch.float64)
    return (group * DRAW_GROUP_SIZE + _first_above(inside, target - before))[:, 0]


def _first_above(ends: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Index of the first cumulative sum above the target; the last that adds something where rounding left none."""
    found = torch.searchsorted(ends, target, right=True)
    largest = torch.searchsorted(ends, ends[:, -1:].contiguous())
    return torch.minimum(found, largest)
