"""Penalties follow the tokens as they come, and are restored with them."""

import torch

from engine_core.model.sampling.penalties import Penalties
from tests.engine_core.model.sampling.rows import make_state

CPU = torch.device("cpu")


def penalized(states, vocab_size=8, value=2.0):
    logits = torch.full((len(states), vocab_size), value)
    penalties = Penalties.build(states, CPU)
    penalties.apply(logits)
    return logits.tolist()


def test_openais_formula_counts_the_output_alone():
    state = make_state(prompt=(1, 1), output=(3, 3, 5), frequency_penalty=0.5, presence_penalty=0.25)
    assert penalized([state])[0] == [2, 2, 2, 0.75, 2, 1.25, 2, 2]


def test_repetition_counts_prompt_and_output_and_respects_the_sign():
    state = make_state(prompt=(1, 1), output=(3,), repetition_penalty=2.0)
    assert penalized([state])[0] == [2, 1, 2, 1, 2, 2, 2, 2]
    assert penalized([state], value=-2.0)[0] == [-2, -4, -2, -4, -2, -2, -2, -2]


def test_a_sampled_token_counts_from_the_next_step_on():
    state = make_state(prompt=(1,), frequency_penalty=0.5)
    penalties = Penalties.build([state], CPU)
    seen = []
    for token_id in (4, 4, 6):
        state.append(token_id)
        logits = torch.zeros(1, 8)
        penalties.apply(logits)
        seen.append(logits[0, [4, 6]].tolist())
    assert seen == [[-0.5, 0], [-1, 0], [-1, -0.5]]


def test_an_empty_output_costs_nothing_and_changes_nothing():
    assert penalized([make_state(prompt=(1,), presence_penalty=2.0)]) == [[2.0] * 8]


def test_rows_without_penalties_are_left_alone():
    states = [make_state(output=(1,)), make_state(output=(1, 2), presence_penalty=1.0), make_state(output=(2,))]
    assert penalized(states, vocab_size=3) == [[2, 2, 2], [2, 1, 1], [2, 2, 2]]
    assert Penalties.build(states[::2], CPU) is None


def test_a_request_that_comes_again_has_the_same_penalties():
    options = {"frequency_penalty": 0.3, "presence_penalty": 0.2, "repetition_penalty": 1.3}
    state = make_state(prompt=(1, 2, 1), **options)
    for token_id in (5, 5, 1, 7):
        state.append(token_id)
    again = make_state(prompt=(1, 2, 1), output=(5, 5, 1, 7), **options)
    assert penalized([state]) == penalized([again])


def test_rows_may_lie_further_apart_than_their_length():
    states = [make_state(output=(1,), presence_penalty=1.0), make_state(output=(0, 2), presence_penalty=1.0)]
    logits = torch.full((2, 5), 2.0)
    Penalties.build(states, CPU).apply(logits[:, :3])
    assert logits.tolist() == [[2, 1, 2, 2, 2], [1, 2, 1, 2, 2]]
