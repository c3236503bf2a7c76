"""Real networks with drafts and without: the same tokens in fp32, greedy and drawn."""

import random

import pytest

from engine_core.speculation import drafter
from ipc.sampling_params import TokenBias
from tests.engine_core.model.test_model_runner import prompt_of
from tests.factories import CoreHarness

FEW_TOKENS = (3, 40, 77)
"""So that drafts are right now and then."""
PARAMS = {
    "greedy": {"allowed_token_ids": FEW_TOKENS},
    "drawn": {"temperature": 1.0, "allowed_token_ids": FEW_TOKENS},
    "biased": {"temperature": 1.0, "logit_bias": tuple(TokenBias(token_id, 14.0) for token_id in FEW_TOKENS)},
    "truncated": {
        "temperature": 1.5,
        "top_k": 3,
        "top_p": 0.95,
        "min_p": 0.01,
        "allowed_token_ids": tuple(range(3, 8)),
    },
}


@pytest.fixture(autouse=True)
def _endless_credit(monkeypatch):
    """Drafts do not depend on how long the steps of this run take."""
    for name in ("START_CREDIT", "MAX_CREDIT"):
        monkeypatch.setattr(drafter, name, 1e9)


@pytest.fixture(params=["native_llama", "transformers_llama", "mistral"])
def runner(request):
    return request.getfixturevalue(f"{request.param}_runner")


def make_prompts():
    """Some random, some that repeat themselves."""
    generator = random.Random(5)
    periods = [[generator.randrange(3, 199) for _ in range(generator.randint(2, 6))] for _ in range(3)]
    return [prompt_of(20, seed=1), prompt_of(45, seed=2), *((period * 12)[:40] for period in periods)]


def answers(runner, params, max_tokens=60, **settings):
    """What a core on this runner says, and how many draft tokens were right and wrong."""
    harness = CoreHarness(runner, max_num_seqs=8, **settings)
    prompts = make_prompts()
    ids = [harness.add(p, max_tokens=max_tokens, seed=seed, **params) for seed, p in enumerate(prompts)]
    harness.run()
    harness.check_idle()
    num_right = harness.scheduler.num_accepted_tokens
    return [harness.token_ids[i] for i in ids], num_right, harness.scheduler.num_draft_tokens - num_right


@pytest.mark.parametrize("name", PARAMS)
def test_answers_are_the_same_with_drafts_and_without(runner, name):
    plain, *_ = answers(runner, PARAMS[name])
    drafted, num_right, num_wrong = answers(runner, PARAMS[name], speculative="ngram", speculative_max_batch=8)
    assert drafted == plain
    assert num_right > 10
    assert num_wrong > 10
