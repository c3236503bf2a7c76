"""The edges of `top_n_sigma`; `test_sampler.py` compares it with numpy, alone and with other features."""

import math

import numpy as np
import pytest
import torch

from engine_core.model.sampling.top_n_sigma import TopNSigma
from tests.engine_core.model.sampling.rows import make_state, sample_rows


def kept_by(logits, *num_sigmas):
    """Which tokens each row keeps, with so many sigmas."""
    logits = torch.tensor(logits)
    TopNSigma.build([make_state(top_n_sigma=number) for number in num_sigmas], torch.device("cpu")).apply(logits)
    return [torch.nonzero(row > -math.inf)[:, 0].tolist() for row in logits]


def test_worked_example():
    # 0.6, 1.6 and 3 standard deviations below the largest logit are 3.85, 1.94 and -0.74.
    row = [5.0, 4.0, 2.0, 1.0, 0.0, 0.0]
    assert np.std(row) == pytest.approx(1.91, abs=0.01)
    assert kept_by([row, row, row], 0.6, 1.6, 3.0) == [[0, 1], [0, 1, 2], [0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("scale", [0.1, 1.0, 40.0])
def test_the_kept_tokens_do_not_depend_on_a_scale_or_an_offset(scale):
    logits = np.random.default_rng(1).normal(size=(1, 3000)).astype(np.float32)
    assert kept_by(logits * scale + 7, 1.2) == kept_by(logits, 1.2)


def test_forbidden_tokens_do_not_count_for_the_deviation():
    row, forbidden = [3.0, 2.0, 1.0, 0.0], [-math.inf] * 4
    assert kept_by([row + forbidden], 1.0) == kept_by([row], 1.0)


def test_tokens_of_equal_logits_are_all_kept():
    assert kept_by([[2.0] * 5], 1.0) == [[0, 1, 2, 3, 4]]


def test_rows_that_do_not_use_it_keep_everything():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(2))
    states = [make_state(), make_state(top_n_sigma=0.5), make_state()]
    changed = logits.clone()
    TopNSigma.build(states, torch.device("cpu")).apply(changed)
    assert torch.equal(changed[[0, 2]], logits[[0, 2]])
    assert (changed[1] == -math.inf).any()


def test_it_is_not_there_where_nobody_uses_it():
    assert TopNSigma.build([make_state(), make_state()], torch.device("cpu")) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_without_a_finite_maximum_still_fails_by_its_own_error(bad):
    logits = torch.zeros(2, 40)
    logits[0, 3] = bad
    logits[1, 3] = 1.0
    sampled = sample_rows(logits, [make_state(top_n_sigma=1.0), make_state(top_n_sigma=1.0)])
    assert [token.failure for token in sampled] == ["nan_logits", ""]


def test_a_row_with_nothing_allowed_still_has_no_token_left():
    state = make_state(top_n_sigma=1.0, allowed_token_ids=(4,), bad_words_token_ids=((4,),))
    assert sample_rows(torch.zeros(1, 40), [state])[0].failure == "no_token_left"


def test_at_a_high_temperature_only_the_informative_tokens_are_drawn():
    logits = torch.randn(1, 1000, generator=torch.Generator().manual_seed(3))
    logits[0, [5, 6, 7]] = torch.tensor([20.0, 19.5, 19.0])
    drawn = {
        sample_rows(logits, [make_state(top_n_sigma=1.0, temperature=2.0, seed=seed)])[0].token_id for seed in range(60)
    }
    assert drawn == {5, 6, 7}
