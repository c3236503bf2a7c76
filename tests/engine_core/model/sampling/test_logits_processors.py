"""Bad words, `min_tokens` and the like, at their edges."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine_core.model.sampling.logits_processors import BadWords
from ipc.sampling_params import TokenBias
from tests.engine_core.model.sampling.rows import make_state, masks_of, sample_rows


def forbidden_by(state, vocab_size=6):
    logits = torch.zeros(1, vocab_size)
    BadWords.build([state]).apply(logits)
    return set(torch.nonzero(logits[0] == -math.inf)[:, 0].tolist())


@given(
    words=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6),
    output=st.lists(st.integers(0, 3), max_size=12),
)
def test_bad_words_forbid_exactly_what_would_complete_one(words, output):
    state = make_state(prompt=(0, 1, 2, 3, 0, 1), output=output, bad_words_token_ids=tuple(words))
    completing = {token for token in range(4) if any(tuple([*output, token][-len(word) :]) == word for word in words)}
    assert forbidden_by(state) == completing


def test_a_bad_word_that_begins_in_the_prompt_is_not_seen():
    assert forbidden_by(make_state(prompt=(1, 2), bad_words_token_ids=((1, 2, 3),))) == set()


def greedy_token(best_first, output=(), masks=None, **params):
    """The sampled token where the logits fall in this order."""
    logits = torch.full((1, 32), -5.0)
    for rank, token_id in enumerate(best_first):
        logits[0, token_id] = 9.0 - rank
    state = make_state(output=output, temperature=0.0, **params)
    return sample_rows(logits, [state], *([] if masks is None else [masks]))[0].token_id


@pytest.mark.parametrize(("num_output", "expected"), [(0, 7), (2, 7), (3, 2)])
def test_min_tokens_forbids_eos_and_stop_ids_until_then(num_output, expected):
    assert greedy_token([2, 5, 7], output=(9,) * num_output, min_tokens=3, stop_token_ids=(5,)) == expected


def test_min_tokens_leaves_eos_alone_where_it_is_ignored():
    assert greedy_token([2, 5], min_tokens=3, ignore_eos=True) == 2


def test_min_tokens_ends_while_the_batch_stays_the_same():
    state = make_state(temperature=0.0, min_tokens=2)
    logits = torch.zeros(1, 8)
    logits[0, 2], logits[0, 4] = 9.0, 8.0
    tokens = []
    for _ in range(3):
        tokens.append(sample_rows(logits, [state])[0].token_id)
        state.append(tokens[-1])
    assert tokens == [4, 4, 2]


@pytest.mark.parametrize(("allowed", "expected"), [((2,), 2), ((2, 5), 2), ((2, 6), 6)])
def test_min_tokens_gives_way_where_the_grammar_allows_only_the_end(allowed, expected, grammar):
    mask = np.zeros(32, dtype=bool)
    mask[list(allowed)] = True
    params = {"min_tokens": 3, "stop_token_ids": (5,), "grammar": grammar("a*")}
    assert greedy_token([2, 5, 6, 7], masks=masks_of({0: mask}), **params) == expected


def test_min_tokens_does_not_give_way_without_a_grammar():
    state = make_state(temperature=0.0, min_tokens=3, allowed_token_ids=(2,))
    assert sample_rows(torch.zeros(1, 32), [state])[0].failure == "no_token_left"


def test_a_bias_may_not_bring_back_what_is_forbidden():
    assert greedy_token([4, 5], allowed_token_ids=(5, 6), logit_bias=(TokenBias(4, 100.0),)) == 5
