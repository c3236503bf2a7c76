"""Masks say what the grammar allows, and a grammar that cannot go on fails its own row."""

import logging
import math

import numpy as np
import pytest
import torch

from engine_core.model.fake_runner import IM_END_ID, VOCAB_SIZE
from engine_core.model.sampling.grammar_masks import GrammarMaskFiller
from engine_core.structured_output.grammar import GrammarError
from tests.engine_core.model.sampling.rows import make_state, masks_of


def filled(*states):
    return GrammarMaskFiller(VOCAB_SIZE).start(states).result(timeout=10)


def allowed_by(masks, row, num_rows=1):
    logits = torch.zeros(num_rows, VOCAB_SIZE)
    masks.apply(logits)
    return torch.nonzero(logits[row] == 0)[:, 0].tolist()


@pytest.mark.parametrize("vocab_size", [32, 100, 1000, 49_153])
def test_a_mask_forbids_exactly_its_zero_bits(vocab_size):
    allowed = np.random.default_rng(vocab_size).random(vocab_size) < 0.5
    logits = torch.arange(2 * vocab_size, dtype=torch.float32).view(2, vocab_size)
    expected = logits.clone()
    expected[1, torch.from_numpy(~allowed)] = -math.inf
    masks_of({1: allowed}).apply(logits)
    assert torch.equal(logits, expected)


def test_the_mask_follows_the_output(grammar):
    state = make_state(prompt=(1, 2, 3), grammar=grammar("ab?"))
    assert allowed_by(filled(state), 0) == [ord("a")]
    state.append(ord("a"))
    assert allowed_by(filled(state), 0) == [ord("b"), IM_END_ID]


def test_a_request_that_comes_again_is_where_it_was(grammar):
    state = make_state(prompt=(1, 2, 3), output=b"xyz", grammar=grammar("xyz[0-9]"))
    assert allowed_by(filled(state), 0) == list(b"0123456789")


def test_only_rows_with_a_grammar_are_touched(grammar):
    masks = filled(make_state(), make_state(grammar=grammar("q")))
    assert allowed_by(masks, 0, num_rows=2) == list(range(VOCAB_SIZE))
    assert allowed_by(masks, 1, num_rows=2) == [ord("q")]


def test_without_grammars_no_thread_is_started():
    assert GrammarMaskFiller(VOCAB_SIZE).start([make_state()]) is None


def test_an_output_that_breaks_the_grammar_fails_alone(grammar):
    masks = filled(make_state(output=b"no", grammar=grammar("yes")), make_state(grammar=grammar("yes")))
    assert masks.failures == {0: "grammar_error"}
    assert allowed_by(masks, 1, num_rows=2) == [ord("y")]


def test_an_unexpected_exception_fails_alone_and_is_logged(grammar, caplog):
    class BrokenGrammar:
        def new_matcher(self, output_token_ids):
            raise RuntimeError("broken")

    with caplog.at_level(logging.ERROR):
        masks = filled(make_state(grammar=BrokenGrammar()), make_state(grammar=grammar("yes")))
    assert masks.failures == {0: "sampler_error"}
    assert list(masks.words) == [1]
    assert "broken" in caplog.text


def test_a_token_that_is_not_allowed_is_an_error(grammar):
    state = make_state(grammar=grammar("yes"))
    filled(state)
    with pytest.raises(GrammarError):
        state.append(ord("n"))


def test_a_grammar_is_complete_once_only_eos_could_follow(grammar):
    state = make_state(grammar=grammar("ab"))
    filled(state)
    complete = []
    for token_id in b"ab":
        state.append(token_id)
        complete.append(state.is_grammar_complete)
    assert complete == [False, True]
