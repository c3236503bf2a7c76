"""Uniform numbers and the inverse of a cumulative distribution."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_core.model.sampling.draw import draw, row_sums, uniform_numbers

PINNED = [0.6524484863740322, 0.9435642308648544, 0.1842354537308829]


def test_uniform_numbers_are_pinned():
    """A change would change every seeded answer."""
    seeds = np.array([0, 1, 2**63], dtype=np.uint64)
    numbers = uniform_numbers(seeds, np.array([0, 1, 7], dtype=np.int64))
    assert numbers.tolist() == PINNED


def test_uniform_numbers_are_uniform_over_seeds_and_positions():
    seeds, positions = np.meshgrid(np.arange(200, dtype=np.uint64), np.arange(200, dtype=np.int64))
    numbers = uniform_numbers(seeds.ravel(), positions.ravel())
    counts, _ = np.histogram(numbers, bins=50, range=(0, 1))
    assert ((counts - 800) ** 2 / 800).sum() < 49 + 5 * math.sqrt(98)
    assert len(set(numbers.tolist())) == 40_000


@settings(max_examples=80, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 1e-30, 0.25, 1.0]), min_size=1, max_size=600).filter(any),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_draw_inverts_the_cumulative_distribution(weights, uniform):
    drawn = draw(torch.tensor([weights]), torch.tensor([[uniform]], dtype=torch.float64)).item()
    ends = np.cumsum(np.array(weights, dtype=np.float32).astype(np.float64))
    assert weights[drawn] > 0
    assert ends[drawn] >= uniform * ends[-1] * (1 - 1e-12)
    assert drawn == 0 or ends[drawn - 1] <= uniform * ends[-1] * (1 + 1e-12)


@pytest.mark.parametrize("vocab_size", [5, 256, 49_152, 49_999])
def test_the_sum_of_a_row_does_not_depend_on_threads_or_neighbours(vocab_size):
    weights = torch.rand(4, vocab_size, generator=torch.Generator().manual_seed(1))
    together = row_sums(weights)
    torch.set_num_threads(2)
    alone = torch.cat([row_sums(weights[row : row + 1]) for row in range(4)])
    assert torch.equal(together, alone)
    assert torch.allclose(together[:, 0], weights.double().sum(dim=-1))
