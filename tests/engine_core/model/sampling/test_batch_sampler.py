"""Failures stay with their own request; the others get the very tokens of a clean run."""

import logging

import pytest
import torch

from engine_core.model.fake_runner import IM_END_ID, VOCAB_SIZE
from engine_core.model.sampling.batch_sampler import BatchSampler
from engine_core.outputs import ModelRunnerOutput
from tests.engine_core.model.sampling.rows import make_state

NUM_ROWS = 16
PARAMS = (
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.9, "num_logprobs": 3},
    {"temperature": 1.2, "frequency_penalty": 1.0, "repetition_penalty": 1.2},
)
NAN_ROW, BROKEN_ROW, GRAMMAR_ROW = 3, 7, 10


class BrokenCounts:
    """In place of the counts of a row with penalties."""

    def __len__(self):
        raise RuntimeError("broken counts")


class BrokenGrammar:
    def new_matcher(self, output_token_ids):
        raise RuntimeError("broken grammar")


def make_states(grammar):
    """Sixteen requests; the one in `GRAMMAR_ROW` and the last follow a grammar."""
    grammars = {GRAMMAR_ROW: grammar("[a-z]{3}"), NUM_ROWS - 1: grammar("[a-z]{3}")}
    return [
        make_state(prompt=(1, 2, row), seed=row, grammar=grammars.get(row), **PARAMS[row % 4])
        for row in range(NUM_ROWS)
    ]


def logits_of(step):
    return torch.randn(NUM_ROWS, VOCAB_SIZE, generator=torch.Generator().manual_seed(step)) * 3


def run_step(sampler, states, logits):
    output = ModelRunnerOutput()
    sampler.begin(states)
    sampler.sample(states, logits.clone, output)
    return output


@pytest.fixture
def sampler():
    return BatchSampler((IM_END_ID,), VOCAB_SIZE, torch.device("cpu"))


@pytest.fixture
def clean(grammar):
    """Two steps without any failure: the outputs."""
    states, sampler = make_states(grammar), BatchSampler((IM_END_ID,), VOCAB_SIZE, torch.device("cpu"))
    return [run_step(sampler, states, logits_of(step)) for step in range(2)], [state.key for state in states]


def tokens_by_row(output, keys):
    return {keys.index(key): token for key, token in output.sampled_token_ids.items()}


def failures_by_row(output, keys):
    return {keys.index(key): code for key, code in output.failures.items()}


def test_three_bad_rows_of_sixteen_fail_and_thirteen_are_as_in_a_clean_run(sampler, grammar, clean, caplog):
    (first, second), clean_keys = clean
    states = make_states(grammar)
    keys = [state.key for state in states]
    assert tokens_by_row(run_step(sampler, states, logits_of(0)), keys) == tokens_by_row(first, clean_keys)
    logits = logits_of(1)
    logits[NAN_ROW, 5] = torch.nan
    states[BROKEN_ROW].counts = BrokenCounts()
    states[GRAMMAR_ROW].token_ids.append(0)  # behind the matcher's back: the replayed output breaks the grammar
    states[GRAMMAR_ROW]._matcher = None
    with caplog.at_level(logging.CRITICAL):
        output = run_step(sampler, states, logits)
    assert failures_by_row(output, keys) == {
        NAN_ROW: "nan_logits",
        BROKEN_ROW: "sampler_error",
        GRAMMAR_ROW: "grammar_error",
    }
    expected = tokens_by_row(second, clean_keys)
    assert tokens_by_row(output, keys) == {row: token for row, token in expected.items() if row not in (3, 7, 10)}
    assert {keys.index(key): item for key, item in output.logprobs.items()} == {
        clean_keys.index(key): item for key, item in second.logprobs.items() if clean_keys.index(key) != GRAMMAR_ROW
    }


def test_a_row_that_failed_does_not_go_on_and_the_others_do_once(sampler, grammar):
    states = make_states(grammar)
    states[BROKEN_ROW].counts = BrokenCounts()
    output = run_step(sampler, states, logits_of(0))
    lengths = [state.num_output_tokens for state in states]
    assert lengths == [0 if row == BROKEN_ROW else 1 for row in range(NUM_ROWS)]
    for row in range(NUM_ROWS):
        if row != BROKEN_ROW:
            assert states[row].output_token_ids.tolist() == [output.sampled_token_ids[states[row].key]]


def test_an_exception_while_a_request_goes_on_fails_it_alone(sampler, grammar):
    class CannotCount:
        token_ids = counts = torch.empty(0, dtype=torch.int32).numpy()

        def __len__(self):
            return 0

        def add(self, token_id):
            raise RuntimeError("cannot count")

    states = make_states(grammar)
    states[BROKEN_ROW].counts = CannotCount()
    output = run_step(sampler, states, logits_of(0))
    assert output.failures == {states[BROKEN_ROW].key: "sampler_error"}
    assert len(output.sampled_token_ids) == NUM_ROWS - 1


def test_a_grammar_that_cannot_be_asked_fails_alone(sampler, grammar):
    states = make_states(grammar)
    states[0] = make_state(grammar=BrokenGrammar())
    assert run_step(sampler, states, logits_of(0)).failures == {states[0].key: "sampler_error"}


def test_what_failed_before_gets_no_token(sampler, grammar):
    states, output = make_states(grammar), ModelRunnerOutput()
    output.failures[states[2].key] = "earlier"
    sampler.begin(states)
    sampler.sample(states, logits_of(0).clone, output)
    assert output.failures == {states[2].key: "earlier"}
    assert states[2].key not in output.sampled_token_ids
    assert states[2].num_output_tokens == 0


def test_answers_follow_their_grammar_until_it_is_complete(sampler, grammar):
    states = make_states(grammar)
    outputs = [run_step(sampler, states, logits_of(step)) for step in range(3)]
    for row in (GRAMMAR_ROW, NUM_ROWS - 1):
        assert bytes(states[row].output_token_ids.tolist()).isalpha()
    complete = [output.completed_grammars for output in outputs]
    assert complete == [set(), set(), {states[GRAMMAR_ROW].key, states[NUM_ROWS - 1].key}]


def test_a_request_that_comes_again_as_new_is_not_taken_for_the_old(sampler):
    old = make_state(prompt=(1,), temperature=0.0, frequency_penalty=2.0)
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, 9], logits[0, 8] = 1.0, 0.5
    assert run_step(sampler, [old], logits).sampled_token_ids == {old.key: 9}
    again = make_state(prompt=(1,), output=(9, 8, 8), temperature=0.0, frequency_penalty=2.0)
    again.key = old.key
    assert run_step(sampler, [again], logits).sampled_token_ids == {old.key: 0}
