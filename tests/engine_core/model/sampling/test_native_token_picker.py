"""The kernel against torch: the same largest logits, and draws that invert the same distributions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_core.model.kernels.bindings import load_library
from engine_core.model.kernels.build import kernel_library
from engine_core.model.sampling.native_token_picker import NativeTokenPicker
from engine_core.model.sampling.token_picker import TORCH_PICKER, RandomRows, best_tokens
from tests.engine_core.model.sampling.rows import make_state

SIZES = [1, 3, 16, 17, 255, 256, 257, 1000, 5003]


@pytest.fixture(scope="module")
def picker():
    return NativeTokenPicker(load_library(kernel_library()))


def random_rows(vocab_size, num_rows, **params):
    """Rows with the same parameters and seeds of their own."""
    states = [make_state(seed=seed, **params) for seed in range(num_rows)]
    return RandomRows.build(states, vocab_size, torch.device("cpu"))


def check_draws(picker, logits, num_draws=50, **params):
    """Each draw must lie where its number falls in the cumulative distribution of torch, but for rounding."""
    random = random_rows(len(logits), num_draws, **params)
    rows = logits.expand(num_draws, -1).clone()
    weights = random.weights(rows, best_tokens(rows).values)[0].double().numpy()
    drawn = picker.pick(rows, random).token_ids
    assert (weights[drawn] > 0).all()
    ends = weights.cumsum() / weights.sum()
    starts = np.concatenate(([0.0], ends[:-1]))
    uniforms = random.uniforms()
    assert (starts[drawn] - 1e-5 <= uniforms).all()
    assert (uniforms <= ends[drawn] + 1e-5).all()


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    scale=st.floats(0.01, 20),
    vocab_size=st.sampled_from(SIZES),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 7, 256, 300, 5000]),
    top_p=st.sampled_from([1.0, 0.9, 0.3, 0.001]),
    min_p=st.sampled_from([0.0, 0.05]),
)
def test_draws_invert_the_distribution_of_torch(picker, seed, scale, vocab_size, temperature, top_k, top_p, min_p):
    logits = torch.randn(vocab_size, generator=torch.Generator().manual_seed(seed)) * scale
    check_draws(picker, logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)


@pytest.mark.parametrize("params", [{}, {"top_p": 0.5}, {"top_p": 0.97}, {"top_k": 4000}, {"top_k": 50, "top_p": 0.9}])
def test_draws_over_a_large_nearly_flat_vocabulary(picker, params):
    logits = torch.randn(49_152, generator=torch.Generator().manual_seed(4)) * 0.1
    check_draws(picker, logits, num_draws=200, **params)


@pytest.mark.parametrize("params", [{"top_k": 2}, {"top_p": 0.7}])
def test_ties_with_the_last_kept_token_are_kept(picker, params):
    logits = torch.full((600,), -20.0)
    logits[[100, 300, 301, 599]] = torch.tensor([2.0, 1.5, 1.5, 1.5])
    rows = logits.expand(300, -1).clone()
    drawn = picker.pick(rows, random_rows(600, 300, **params)).token_ids
    assert set(drawn) == {100, 300, 301, 599}


def test_equal_logits_are_all_drawn(picker):
    rows = torch.zeros(2000, 40)
    drawn = picker.pick(rows, random_rows(40, 2000, top_k=10, top_p=0.5)).token_ids
    assert set(drawn) == set(range(40))


def test_forbidden_tokens_are_never_drawn(picker):
    logits = torch.full((1000,), -torch.inf)
    logits[[13, 700]] = torch.tensor([0.0, 1.0])
    for params in ({}, {"top_k": 5}, {"top_p": 0.99999}, {"min_p": 0.01}):
        drawn = picker.pick(logits.expand(100, -1).clone(), random_rows(1000, 100, **params)).token_ids
        assert set(drawn) == {13, 700}


def test_a_top_p_a_hair_below_one_leaves_out_nothing_that_is_likely(picker):
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        logits = -30 * torch.rand(3000, generator=generator) - 5
        logits[torch.rand(3000, generator=generator) < 0.3] = -torch.inf
        logits[[0, 7, 2999]] = torch.tensor([0.0, 0.0, -0.5])
        likely = float(logits.softmax(0)[[0, 7, 2999]].sum())
        drawn = picker.pick(logits.expand(512, -1).clone(), random_rows(3000, 512, top_p=1 - 2**-53)).token_ids
        num_rare = sum(token not in (0, 7, 2999) for token in drawn)
        assert num_rare > 0.5 * 512 * (1 - likely), f"seed {seed}"


@pytest.mark.parametrize("vocab_size", SIZES)
def test_greedy_rows_take_the_first_of_the_largest(picker, vocab_size):
    generator = torch.Generator().manual_seed(vocab_size)
    logits = torch.randint(-5, 5, (40, vocab_size), generator=generator).float()  # many ties
    assert picker.pick(logits, None) == TORCH_PICKER.pick(logits, None)


@pytest.mark.parametrize("vocab_size", [17, 1000])
def test_nan_anywhere_is_seen(picker, vocab_size):
    logits = torch.zeros(vocab_size, vocab_size).fill_diagonal_(torch.nan)
    assert np.isnan(picker.pick(logits, None).best).all()


def test_greedy_and_drawn_rows_stand_side_by_side(picker):
    logits = torch.randn(6, 300, generator=torch.Generator().manual_seed(1))
    states = [make_state(seed=row, temperature=float(row % 2)) for row in range(6)]
    random = RandomRows.build(states, 300, torch.device("cpu"))
    picked = picker.pick(logits.clone(), random)
    assert picked.token_ids == TORCH_PICKER.pick(logits, random).token_ids
    assert picked.best == logits.amax(dim=1).tolist()


def test_another_batch_of_the_same_size_has_its_own_parameters(picker):
    logits = torch.randn(30, 300, generator=torch.Generator().manual_seed(1))
    first, second = random_rows(300, 30, temperature=5.0), random_rows(300, 30, top_k=1)
    assert picker.pick(logits.clone(), first).token_ids != logits.argmax(dim=1).tolist()
    assert picker.pick(logits.clone(), second).token_ids == logits.argmax(dim=1).tolist()


def test_the_number_of_threads_changes_nothing(picker):
    logits = torch.randn(9, 5003, generator=torch.Generator().manual_seed(2))
    random = random_rows(5003, 9, top_p=0.9)
    before = torch.get_num_threads()
    try:
        picked = []
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            picked.append(picker.pick(logits.clone(), random))
    finally:
        torch.set_num_threads(before)
    assert picked[0] == picked[1] == picked[2]
