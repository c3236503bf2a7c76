"""With drafts or without: the same tokens."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine_core.model.sampling import batch_sampler as batch_sampler_module
from engine_core.model.sampling.batch_sampler import BatchSampler
from engine_core.model.sampling.verification import NOTHING, num_drafts_before, verified_rows
from engine_core.outputs import ModelRunnerOutput
from ipc.sampling_params import TokenBias
from tests.engine_core.model.sampling.rows import EOS, make_state

VOCAB_SIZE = 300
PARAMS = (
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 1.5, "top_k": 20, "top_p": 0.8, "min_p": 0.05, "top_n_sigma": 2.0, "seed": 4},
    {"temperature": 1.0, "logit_bias": (TokenBias(5, 4.0),), "allowed_token_ids": tuple(range(0, 300, 5)), "seed": 5},
)


def make_sampler():
    return BatchSampler(EOS, VOCAB_SIZE, torch.device("cpu"))


def logits_after(token_ids):
    """A model: logits that depend on the last token and the number of tokens, with few likely ones."""
    generator = torch.Generator().manual_seed(1000 * len(token_ids) + int(token_ids[-1]))
    return torch.randn(VOCAB_SIZE, generator=generator) * 4


def make_states():
    return [make_state(prompt=(1, 2, 3 + row), **params) for row, params in enumerate(PARAMS)]


def say_plainly(count):
    """What each request says without drafts."""
    states, sampler = make_states(), make_sampler()
    for _ in range(count):
        logits = torch.stack([logits_after(state.token_ids.values) for state in states])
        sampler.sample(states, logits.clone, ModelRunnerOutput())
    return [state.output_token_ids.tolist() for state in states]


def step_with_drafts(sampler, states, drafts):
    """One step in which each request has a draft; returns the output."""
    rows, row_token_ids, logits = [], [], []
    for state, draft in zip(states, drafts, strict=True):
        known = state.token_ids.values.tolist()
        for length in range(len(draft) + 1):
            rows.append(state)
            row_token_ids.append([*known, *draft][len(known) + length - 1])
            logits.append(logits_after([*known, *draft[:length]]))
    output = ModelRunnerOutput()
    sampler.sample(rows, torch.stack(logits).clone, output, row_token_ids)
    return output


def tokens_of(output, state):
    return [output.sampled_token_ids[state.key], *output.further_token_ids.get(state.key, [])]


@given(st.data())
def test_any_drafts_leave_the_tokens_as_they_are(data):
    expected = say_plainly(12)
    states, sampler = make_states(), make_sampler()
    while min(state.num_output_tokens for state in states) < 6:
        drafts = []
        for state, whole in zip(states, expected, strict=True):
            num_right = data.draw(st.integers(0, 3))
            wrong = data.draw(st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=2))
            start = state.num_output_tokens
            drafts.append([*whole[start : start + num_right], *wrong] if start < 6 else [])
        before = [state.num_output_tokens for state in states]
        output = step_with_drafts(sampler, states, drafts)
        for state, start, draft, whole in zip(states, before, drafts, expected, strict=True):
            said = state.output_token_ids.tolist()
            assert said == whole[: len(said)]
            assert said[start:] == tokens_of(output, state)
            num_right = next((i for i, token in enumerate(draft) if token != whole[start + i]), len(draft))
            assert len(said) - start == 1 + num_right


def test_a_draft_row_that_fails_is_not_taken_and_its_request_goes_on():
    [whole, *_] = say_plainly(4)
    state = make_states()[0]
    rows = [logits_after([1, 2, 3]), torch.full((VOCAB_SIZE,), torch.nan)]
    output = ModelRunnerOutput()
    make_sampler().sample([state, state], torch.stack(rows).clone, output, [3, whole[0]])
    assert output.failures == {}
    assert tokens_of(output, state) == whole[:1]


def test_a_first_row_that_fails_fails_its_request_alone():
    states = make_states()[:2]
    logits = torch.stack([torch.full((VOCAB_SIZE,), torch.nan), logits_after([1]), logits_after([1])])
    output = ModelRunnerOutput()
    make_sampler().sample([states[0], states[0], states[1]], logits.clone, output, [3, 0, 4])
    assert output.failures == {states[0].key: "nan_logits"}
    assert states[0].num_output_tokens == 0
    assert len(tokens_of(output, states[1])) == 1


def test_rows_that_are_sampled_one_by_one_give_drafts_up(monkeypatch, caplog):
    expected = say_plainly(6)
    states, sample = make_states(), batch_sampler_module.sample

    def sample_single_rows(logits, *arguments):
        if len(logits) > 1:
            raise RuntimeError("no batches today")
        return sample(logits, *arguments)

    monkeypatch.setattr(batch_sampler_module, "sample", sample_single_rows)
    with caplog.at_level(logging.CRITICAL):
        output = step_with_drafts(make_sampler(), states, [whole[:3] for whole in expected])
    assert output.failures == {}
    assert [tokens_of(output, state) for state in states] == [whole[:1] for whole in expected]


@pytest.mark.parametrize(
    ("sampled", "row_token_ids", "expected"),
    [
        ([7, 8, 9], [5, 7, 8], [0, 1, 2]),
        ([7, 8, 9], [5, 7, 0], [0, 1]),
        ([7, 8, 9], [5, 0, 8], [0]),
        ([7, NOTHING, 9], [5, 7, NOTHING], [0]),
    ],
)
def test_rows_count_as_long_as_the_draft_was_right(sampled, row_token_ids, expected):
    state = make_state()
    assert list(verified_rows([state] * 3, sampled, row_token_ids)) == expected


def test_positions_are_counted_for_each_request():
    one, other = make_state(), make_state()
    assert num_drafts_before([one, other, other, other, one, one]).tolist() == [0, 0, 1, 2, 0, 1]
    assert np.array_equal(num_drafts_before([one]), [0])
