"""Every feature against the float64 reference: same logits, same kept set, same distribution; rows are independent."""

import math

import numpy as np
import pytest
import torch

from engine_core.model.kernels.bindings import load_library
from engine_core.model.kernels.build import kernel_library
from engine_core.model.sampling.native_token_picker import NativeTokenPicker
from engine_core.model.sampling.sampler import process_logits
from engine_core.model.sampling.token_picker import TORCH_PICKER, best_tokens
from ipc.sampling_params import TokenBias
from tests.engine_core.model.sampling import reference
from tests.engine_core.model.sampling.rows import EOS, make_state, masks_of, metadata_of, sample_rows, with_seed

PROMPT = (7, 7, 40, 41, 300, 999, 12)
OUTPUT = (41, 41, 41, 500, 2, 7, 8, 9, 500, 8)
FEATURES = {
    "plain": {},
    "temperature": {"temperature": 0.5},
    "min_p": {"temperature": 1.3, "min_p": 0.1},
    "top_k": {"temperature": 2.0, "top_k": 25},
    "top_k_beyond_the_shortlist": {"top_k": 600},
    "top_p": {"top_p": 0.7},
    "top_p_near_1": {"temperature": 2.0, "top_p": 0.99},
    "all_filters": {"temperature": 0.9, "top_k": 20, "top_p": 0.8, "min_p": 0.02},
    "frequency_penalty": {"frequency_penalty": 1.5},
    "negative_frequency_penalty": {"frequency_penalty": -0.9},
    "presence_penalty": {"presence_penalty": 2.0},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "all_penalties": {"frequency_penalty": 0.5, "presence_penalty": -0.5, "repetition_penalty": 0.8},
    "logit_bias": {"logit_bias": (TokenBias(3, 9.0), TokenBias(500, 7.5), TokenBias(8, -20.0))},
    "bias_and_penalties": {"logit_bias": (TokenBias(8, 5.0), TokenBias(41, 6.0)), "repetition_penalty": 1.5},
    "allowed_token_ids": {"allowed_token_ids": tuple(range(1, 999, 7))},
    "bad_words": {"bad_words_token_ids": ((3,), (500, 8, 11), (8, 12), (7, 8, 13), (999, 12, 14), (8,))},
    "min_tokens": {"min_tokens": 11, "stop_token_ids": (5, 6)},
    "min_tokens_reached": {"min_tokens": 10, "stop_token_ids": (5, 6)},
    "top_n_sigma": {"top_n_sigma": 1.0},
    "top_n_sigma_with_filters": {"top_n_sigma": 1.5, "temperature": 1.8, "top_p": 0.9, "frequency_penalty": 0.5},
    "everything": {
        "temperature": 0.8,
        "top_k": 100,
        "top_p": 0.95,
        "min_p": 0.01,
        "frequency_penalty": 0.3,
        "presence_penalty": 0.2,
        "repetition_penalty": 1.2,
        "logit_bias": (TokenBias(3, 3.0),),
        "allowed_token_ids": tuple(range(0, 990, 5)),
        "bad_words_token_ids": ((4,), (8, 22)),
        "min_tokens": 50,
        "top_n_sigma": 2.5,
    },
}


@pytest.fixture(params=FEATURES)
def feature(request):
    return FEATURES[request.param]


@pytest.fixture(params=["torch", "native"])
def picker(request):
    """What is said of the sampler holds for the kernel too."""
    return TORCH_PICKER if request.param == "torch" else NativeTokenPicker(load_library(kernel_library()))


def random_logits(vocab_size, seed, rows=1):
    return torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * 3


def expected_logits(logits, state):
    return reference.processed_logits(logits, state.params, PROMPT, state.output_token_ids.tolist(), EOS)


@pytest.mark.parametrize("vocab_size", [1000, 49_152])
@pytest.mark.parametrize("seed", range(3))
def test_logits_argmax_and_kept_set_equal_the_reference(feature, vocab_size, seed):
    state, logits = make_state(PROMPT, OUTPUT, **feature), random_logits(vocab_size, seed)
    metadata = metadata_of([state], vocab_size)
    expected = expected_logits(logits[0].numpy(), state)
    process_logits(logits, metadata)
    best = best_tokens(logits)
    weights = metadata.random.weights(logits, best.values)[0].double().numpy()
    np.testing.assert_allclose(logits[0].numpy(), expected, rtol=1e-5, atol=1e-5)
    assert best.indices.item() == expected.argmax()
    probabilities = reference.probabilities(expected, state.params)
    assert ((weights > 0) == (probabilities > 0)).all()
    np.testing.assert_allclose(weights / weights.sum(), probabilities, rtol=1e-4, atol=1e-9)


def test_the_draws_follow_the_distribution_of_the_reference(feature, picker):
    num_draws, rows = 20_000, 2_000
    logits = random_logits(1000, seed=9)
    state = make_state(PROMPT, OUTPUT, **feature)
    counts = np.zeros(1000)
    for first in range(0, num_draws, rows):
        states = [with_seed(state, first + row) for row in range(rows)]
        tokens = sample_rows(logits.expand(rows, -1), states, picker=picker)
        counts += np.bincount([token.token_id for token in tokens], minlength=1000)
    expected = num_draws * reference.probabilities(expected_logits(logits[0].numpy(), state), state.params)
    statistic, degrees = reference.chi_square(counts, expected)
    assert counts[expected == 0].sum() == 0
    assert statistic < reference.chi_square_limit(degrees)


def test_greedy_takes_the_argmax_of_the_reference(feature, picker):
    logits = random_logits(1000, seed=4, rows=5)
    states = [make_state(PROMPT, OUTPUT, **{**feature, "temperature": 0.0}) for _ in range(5)]
    tokens = [token.token_id for token in sample_rows(logits, states, picker=picker)]
    assert tokens == [expected_logits(row.numpy(), states[0]).argmax() for row in logits]


def mixed_rows():
    """Each feature random and greedy, over different outputs."""
    return [
        make_state(PROMPT, OUTPUT[: 2 + row % 9], seed=row, num_logprobs=row % 4 - 1, **{**feature, **greedy})
        for row, feature in enumerate(FEATURES.values())
        for greedy in ({}, {"temperature": 0.0})
    ]


@pytest.mark.parametrize("vocab_size", [1000, 49_153])
def test_a_row_gives_the_same_alone_in_a_batch_and_in_another_order(vocab_size, picker):
    states = mixed_rows()
    logits = random_logits(vocab_size, seed=5, rows=len(states))
    allowed = {row: logits[row].numpy() > 0 for row in range(0, len(states), 3)}
    together = sample_rows(logits, states, masks_of(allowed), picker=picker)
    alone = [
        sample_rows(logits[row : row + 1], [state], masks_of(allowed).of_row(row), picker=picker)[0]
        for row, state in enumerate(states)
    ]
    last = len(states) - 1
    flipped_masks = masks_of({last - row: mask for row, mask in allowed.items()})
    reordered = sample_rows(logits.flip(0), states[::-1], flipped_masks, picker=picker)
    assert together == alone == reordered[::-1]


def test_kept_sets_are_bit_identical_alone_and_in_a_batch():
    states = [make_state(PROMPT, OUTPUT, **feature) for feature in FEATURES.values()]
    logits = random_logits(49_152, seed=6, rows=len(states))

    def weights(rows, states):
        rows, metadata = rows.clone(), metadata_of(states, 49_152)
        process_logits(rows, metadata)
        return metadata.random.weights(rows, best_tokens(rows).values)

    together = weights(logits, states)
    for row, state in enumerate(states):
        assert torch.equal(weights(logits[row : row + 1], [state])[0], together[row])


@pytest.mark.parametrize("item", [{"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1.0}, {"temperature": 1.1e-5}])
def test_filters_at_their_limit_leave_the_best_token(item, picker):
    logits = random_logits(500, seed=7, rows=20)
    tokens = sample_rows(logits, [make_state(seed=seed, **item) for seed in range(20)], picker=picker)
    assert [token.token_id for token in tokens] == logits.argmax(dim=-1).tolist()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_without_a_finite_maximum_fails_alone(bad, picker):
    logits = random_logits(50, seed=8, rows=4)
    states = [make_state(temperature=0.0), make_state(top_p=0.9), make_state(top_k=5), make_state(temperature=0.0)]
    whole = sample_rows(logits, states, picker=picker)
    logits[1, 17] = bad
    logits[3, 0] = bad
    sampled = sample_rows(logits, states, picker=picker)
    assert [token.failure for token in sampled] == ["", "nan_logits", "", "nan_logits"]
    assert [sampled[row] for row in (0, 2)] == [whole[row] for row in (0, 2)]


def test_nan_behind_a_grammars_mask_fails_nevertheless(picker):
    logits = random_logits(64, seed=8)
    logits[0, 17] = math.nan
    allowed = np.zeros(64, dtype=bool)
    allowed[3] = True
    assert sample_rows(logits, [make_state()], masks_of({0: allowed}), picker=picker)[0].failure == "nan_logits"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_whose_every_token_is_forbidden_fails_alone(temperature, picker):
    logits = random_logits(50, seed=8, rows=2)
    nothing = make_state(temperature=temperature, allowed_token_ids=(4,), bad_words_token_ids=((4,),))
    assert [token.failure for token in sample_rows(logits, [nothing, make_state()], picker=picker)] == [
        "no_token_left",
        "",
    ]


def test_an_unused_feature_is_not_there():
    metadata = metadata_of([make_state(temperature=0.0)], 1000)
    assert (metadata.processors, metadata.random, metadata.logprob_rows) == ((), None, {})


def test_bfloat16_logits_are_sampled_in_float32(picker):
    logits = random_logits(1000, seed=3).to(torch.bfloat16)
    state = make_state(PROMPT, OUTPUT, temperature=0.0, frequency_penalty=1e-3)
    expected = expected_logits(logits[0].float().numpy(), state)
    assert sample_rows(logits, [state], picker=picker)[0].token_id == expected.argmax()
