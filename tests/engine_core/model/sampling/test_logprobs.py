"""Log-probabilities against float64."""

import numpy as np
import pytest
import torch

from engine_core.model.sampling.logprobs import logprob_columns
from ipc.sampling_params import TokenBias
from tests.engine_core.model.sampling import reference
from tests.engine_core.model.sampling.rows import make_state, masks_of, sample_rows

ATOL = 3e-5
"""What an fp32 log_softmax over 49,152 tokens may be off."""


@pytest.mark.parametrize("vocab_size", [10, 1000, 49_152])
@pytest.mark.parametrize("num_top", [0, 1, 5, 20])
def test_values_ranks_and_best_tokens_equal_float64(vocab_size, num_top):
    logits = torch.randn(6, vocab_size, generator=torch.Generator().manual_seed(vocab_size)) * 4
    tokens = torch.randint(0, vocab_size, (6,), generator=torch.Generator().manual_seed(1))
    columns = logprob_columns(logits, tokens, num_top)
    expected = reference.log_softmax(logits.numpy())
    for row, token in enumerate(tokens.tolist()):
        falling = np.sort(expected[row])[::-1][:num_top]
        assert columns.token_ids[row, 0] == token
        assert columns.ranks[row] == 1 + (expected[row] > expected[row, token]).sum()
        np.testing.assert_allclose(columns.values[row, 0], expected[row, token], atol=ATOL)
        np.testing.assert_allclose(columns.values[row, 1:], falling, atol=ATOL)
        np.testing.assert_allclose(expected[row, columns.token_ids[row, 1:]], falling, atol=ATOL)


def test_equal_logits_share_a_rank():
    columns = logprob_columns(torch.tensor([[3.0, 1.0, 1.0, 2.0]]), torch.tensor([2]), 0)
    assert columns.ranks.tolist() == [3]


def sampled_logprobs(logits, masks=None, **params):
    return sample_rows(logits, [make_state(output=(1, 1), **params)], *([] if masks is None else [masks]))[0]


def test_they_are_taken_before_anything_but_the_grammar():
    logits = torch.randn(1, 100, generator=torch.Generator().manual_seed(2))
    wishes = {"temperature": 0.3, "frequency_penalty": 2.0, "allowed_token_ids": (1, 7), "top_k": 3}
    token = sampled_logprobs(logits, num_logprobs=2, logit_bias=(TokenBias(7, 50.0),), **wishes)
    expected = reference.log_softmax(logits[0].numpy())
    assert token.token_id == 7
    assert list(token.logprobs.token_ids) == [7, *np.argsort(-expected)[:2]]
    np.testing.assert_allclose(token.logprobs.values[0], expected[7], atol=ATOL)


def test_a_grammar_changes_the_token_but_not_the_logprobs():
    logits = torch.randn(1, 64, generator=torch.Generator().manual_seed(2))
    allowed = np.arange(64) % 8 == 5
    expected = reference.log_softmax(logits[0].numpy())
    token = sampled_logprobs(logits, masks_of({0: allowed}), temperature=0.0, num_logprobs=1)
    assert token.token_id == np.where(allowed, expected, -np.inf).argmax()
    assert token.logprobs.ranks[0] == 1 + (expected > expected[token.token_id]).sum()
    np.testing.assert_allclose(token.logprobs.values[0], expected[token.token_id], atol=ATOL)


def test_each_row_gets_as_many_as_it_asked_for():
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(3))
    wanted = (-1, 0, 20, 3)
    tokens = sample_rows(logits, [make_state(num_logprobs=count) for count in wanted])
    assert tokens[0].logprobs is None
    assert [token.logprobs.num_entries for token in tokens[1:]] == [1, 21, 4]
    assert [len(token.logprobs.values) for token in tokens[1:]] == [1, 21, 4]
