"""Thresholds of min_p, top_k and top_p over many shapes; ties, and the way past the shortlist."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_core.model.sampling.truncation import SHORTLIST_SIZE, Truncation
from ipc.sampling_params import SamplingParams
from tests.engine_core.model.sampling import reference

CPU = torch.device("cpu")


def kept_by(scores, **params):
    """Which tokens stay, `[vocab_size]`."""
    truncation = Truncation.build([SamplingParams(max_tokens=1, **params)], len(scores), CPU)
    relative = (scores - scores.max())[None]
    return (relative >= truncation.thresholds(relative))[0].numpy()


def kept_by_reference(scores, **params):
    return reference.probabilities(scores.double().numpy(), SamplingParams(max_tokens=1, **params)) > 0


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    scale=st.floats(0.01, 20),
    vocab_size=st.sampled_from([3, 200, 257, 1000]),
    top_k=st.sampled_from([0, 1, 7, 256, 300, 5000]),
    top_p=st.sampled_from([0.999, 0.9, 0.3, 0.001]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
)
def test_the_kept_set_is_that_of_the_reference(seed, scale, vocab_size, top_k, top_p, min_p):
    scores = torch.randn(vocab_size, generator=torch.Generator().manual_seed(seed)) * scale
    kept = kept_by(scores, top_k=top_k, top_p=top_p, min_p=min_p)
    # A token on the edge may fall to either side by rounding: compare with a slightly narrower and a wider reference.
    narrow = kept_by_reference(scores, top_k=top_k, top_p=top_p * (1 - 1e-5), min_p=min_p)
    wide = kept_by_reference(scores, top_k=top_k, top_p=min(1.0, top_p * (1 + 1e-5)), min_p=min_p * (1 - 1e-5))
    assert kept[narrow].all()
    assert not kept[~wide].any()


@pytest.mark.parametrize("params", [{"top_p": 0.5}, {"top_p": 0.97}, {"top_k": 600}])
def test_kept_sets_beyond_the_shortlist_are_exact(params):
    scores = torch.randn(2000, generator=torch.Generator().manual_seed(4)) * 0.1  # nearly flat: most are kept
    kept = kept_by(scores, **params)
    assert kept.sum() > SHORTLIST_SIZE
    assert (kept == kept_by_reference(scores, **params)).all()


def test_ties_with_the_last_kept_token_are_kept():
    scores = torch.tensor([1.0, 3.0, 2.0, 2.0, 0.0])
    assert np.flatnonzero(kept_by(scores, top_k=2)).tolist() == [1, 2, 3]


def test_nothing_is_built_where_every_token_is_kept():
    assert Truncation.build([SamplingParams(max_tokens=1, top_k=5000)], 1000, CPU) is None
