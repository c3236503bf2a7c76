"""The draw: one uniform number for each output position, and the inverse of a row's cumulative distribution at it.

The draw for output position i of a request depends on its seed, on i and on its row of weights alone: the same
whatever else is in the batch, however the prompt was chunked, and after a preemption or a restart.
"""

import numpy as np
import numpy.typing as npt
import torch

GROUP_SIZE = 256

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


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


def draw(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Invert each row's cumulative distribution, in order of token id.

    Args:
        weights: `[rows, vocab_size]`, not negative, not normalized.
        uniforms: `[rows, 1]` fp64 in [0, 1).

    Returns:
        `[rows]` ids of tokens with a positive weight. Two levels (sums of groups, then one group) in fp64, so a row
        of 100,000 tokens costs one pass and no long cumulative sum.
    """
    rows = weights.shape[0]
    grouped = _grouped(weights)
    group_ends = grouped.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    target = uniforms * group_ends[:, -1:]
    group = _first_above(group_ends, target)
    before = torch.where(group > 0, group_ends.gather(-1, (group - 1).clamp_(min=0)), 0.0)
    inside = grouped[torch.arange(rows, device=weights.device), group[:, 0]].cumsum(dim=-1, dtype=torch.float64)
    return (group * GROUP_SIZE + _first_above(inside, target - before))[:, 0]


def row_sums(weights: torch.Tensor) -> torch.Tensor:
    """`[rows, 1]` fp64 sums of `[rows, vocab_size]`, summed up in the same way whatever the number of rows and threads.

    torch divides the sum of a single row, and only that, among its threads; sums of groups it does not.
    """
    return _grouped(weights).sum(dim=-1, dtype=torch.float64).sum(dim=-1, keepdim=True)


def _grouped(weights: torch.Tensor) -> torch.Tensor:
    """`[rows, num_groups, GROUP_SIZE]`, padded with zeros."""
    rows, vocab_size = weights.shape
    padding = -vocab_size % GROUP_SIZE
    return (torch.nn.functional.pad(weights, (0, padding)) if padding else weights).view(rows, -1, GROUP_SIZE)


def _first_above(ends: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Index of the first cumulative sum above the target; the last that adds something where rounding left none."""
    found = torch.searchsorted(ends, target, right=True)
    largest = torch.searchsorted(ends, ends[:, -1:].contiguous())
    return torch.minimum(found, largest)
