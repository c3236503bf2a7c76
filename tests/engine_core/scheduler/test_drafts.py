"""Drafts take what is left of a step, and nothing from anybody."""

import pytest

from engine_core.request import RequestStatus
from ipc.messages import RequestClass, Task
from ipc.sampling_params import TokenBias
from ipc.structured_output import GrammarKind, StructuredOutput
from tests.engine_core.scheduler.simulation import Simulation
from tests.factories import BLOCK_SIZE, make_params, make_request

LONG = make_params(max_tokens=100)
PROMPT = [1, 1, 1, 2, 1, 1, 1, 1, 1, 1]


def make_simulation(**settings):
    return Simulation(**{"speculative": "ngram", "speculative_tokens": 5, **settings})


def drafts_of(plan):
    """By key, the length of each draft of a step."""
    return {item.key: len(item.draft_token_ids) for item in plan.scheduled if item.draft_token_ids}


def decode(simulation, request):
    """Step until the request decodes; returns the plan of its first step after that."""
    while not request.num_output_tokens:
        simulation.step()
    return simulation.step()


def test_a_decode_gets_a_draft():
    simulation = make_simulation()
    [request] = simulation.add(make_request(PROMPT, sampling_params=LONG))
    [item] = decode(simulation, request).scheduled
    assert (item.num_scheduled_tokens, item.draft_token_ids) == (6, (1, 1, 1, 1, 1))


def test_speculation_is_off_unless_asked_for():
    simulation = Simulation()
    [request] = simulation.add(make_request(PROMPT, sampling_params=LONG))
    assert drafts_of(decode(simulation, request)) == {}


def test_accepted_tokens_are_counted_and_charged_like_decoded_ones():
    plain, drafting = Simulation(), make_simulation()
    for simulation in (plain, drafting):
        simulation.add(make_request(PROMPT, sampling_params=LONG, flow="a"))
        simulation.add(make_request([3, 4, 5], sampling_params=LONG, flow="b"))
        simulation.run(max_steps=200)
    assert drafting.scheduler.num_draft_tokens > drafting.scheduler.num_accepted_tokens > 50
    assert sorted(plain.num_served_tokens.values()) == sorted(drafting.num_served_tokens.values())
    counters = [simulation.scheduler._queue._classes[RequestClass.ONLINE].counters for simulation in (plain, drafting)]
    assert counters[0]._highest == counters[1]._highest


def test_accepted_tokens_are_in_the_prefix_cache_and_rejected_ones_are_not():
    simulation = make_simulation()
    [request] = simulation.add(make_request(PROMPT, sampling_params=make_params(max_tokens=4 * BLOCK_SIZE)))
    simulation.run(max_steps=200)
    assert simulation.scheduler.num_draft_tokens > simulation.scheduler.num_accepted_tokens > 0
    answer = request.token_ids.tolist()
    same = make_request(answer)
    wrong = make_request([*answer[: 2 * BLOCK_SIZE], *([9] * BLOCK_SIZE)])
    assert simulation.kv_cache.try_admit(same, 0) == (len(answer) - 1) // BLOCK_SIZE * BLOCK_SIZE
    assert simulation.kv_cache.try_admit(wrong, 0) == 2 * BLOCK_SIZE


def test_a_draft_does_not_go_beyond_max_tokens():
    simulation = make_simulation()
    [request] = simulation.add(make_request(PROMPT, sampling_params=make_params(max_tokens=4)))
    assert drafts_of(decode(simulation, request)) == {request.key: 2}


def test_a_draft_does_not_go_beyond_the_context():
    simulation = make_simulation(num_blocks=2)  # which are the whole context here
    [request] = simulation.add(make_request([1] * (2 * BLOCK_SIZE - 5), sampling_params=LONG))
    assert drafts_of(decode(simulation, request)) == {request.key: 3}


def test_prompts_get_the_budget_before_drafts():
    simulation = make_simulation(max_num_batched_tokens=16)
    [request] = simulation.add(make_request(PROMPT, sampling_params=LONG))
    simulation.step()
    simulation.add(make_request([7] * 12))
    plan = simulation.step()
    assert [item.num_scheduled_tokens for item in plan.scheduled] == [4, 12]
    assert drafts_of(plan) == {request.key: 3}


def test_a_draft_takes_no_block_that_another_could_need():
    simulation = make_simulation(num_blocks=3)
    requests = [make_request([number, *([1] * (BLOCK_SIZE - 4))], sampling_params=LONG) for number in (5, 6)]
    simulation.add(*requests)
    plan = decode(simulation, requests[0])  # both know 14 tokens; two more slots each, and one free block
    assert drafts_of(plan) == {request.key: 2 for request in requests}


def test_there_are_no_drafts_while_more_requests_run():
    simulation = make_simulation(speculative_max_batch=2)
    requests = simulation.add(*(make_request([9, number, *PROMPT], sampling_params=LONG) for number in range(3)))
    assert drafts_of(decode(simulation, requests[2])) == {}
    simulation.abort(requests[0])
    assert set(drafts_of(simulation.step())) == {request.key for request in requests[1:]}


@pytest.mark.parametrize(
    ("params", "is_drafted"),
    [
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "top_n_sigma": 1.0}, True),
        ({"logit_bias": (TokenBias(1, 1.0),), "allowed_token_ids": (1, 2)}, True),
        ({"min_tokens": 1}, True),
        ({"min_tokens": 50}, False),
        ({"repetition_penalty": 1.1}, False),
        ({"frequency_penalty": 0.1}, False),
        ({"bad_words_token_ids": ((1, 2),)}, False),
        ({"num_logprobs": 0}, False),
    ],
)
def test_requests_are_drafted_whose_rows_need_nothing_but_their_logits(params, is_drafted):
    simulation = make_simulation()
    [request] = simulation.add(make_request(PROMPT, sampling_params=make_params(max_tokens=100, **params)))
    assert bool(drafts_of(decode(simulation, request))) == is_drafted


def test_a_request_with_a_grammar_is_not_drafted():
    simulation = make_simulation()
    params = make_params(max_tokens=100, structured_output=StructuredOutput(GrammarKind.REGEX, "a*"))
    [request] = simulation.add(make_request(PROMPT, sampling_params=params))
    assert drafts_of(decode(simulation, request)) == {}


def test_an_embedding_is_not_drafted():
    simulation = make_simulation()
    simulation.add(make_request([1] * 17, task=Task.EMBED))
    assert drafts_of(simulation.step()) == {}


def test_a_request_that_comes_back_after_a_preemption_is_drafted_again():
    simulation = make_simulation(num_blocks=4)
    first, second = simulation.add(
        make_request([5, *([1] * 14)], sampling_params=make_params(max_tokens=40)),
        make_request([6, *([1] * 14)], sampling_params=make_params(max_tokens=40)),
    )
    while RequestStatus.PREEMPTED not in (first.status, second.status):
        simulation.step()
    num_before = simulation.scheduler.num_accepted_tokens
    simulation.run(max_steps=200)
    assert simulation.scheduler.num_accepted_tokens > num_before
    simulation.kv_cache.check_idle()
