"""A seed gives the same tokens whatever happens around and to the request, with SmolLM2 in fp32.

Alone, among others, in chunks, after preemption, and resumed from any position that a client may have seen.
"""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from engine_core.model.loader import load_model_runner
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.sampling_params import TokenBias
from ipc.structured_output import GrammarKind, StructuredOutput
from tests.factories import CoreHarness

pytestmark = [pytest.mark.model, pytest.mark.timeout(300), pytest.mark.usefixtures("frees_models")]

NUM_NEW_TOKENS = 16
JSON = StructuredOutput(
    GrammarKind.JSON_SCHEMA,
    '{"type": "object", "properties": {"name": {"type": "string", "minLength": 30}}, "required": ["name"]}',
)
SEEDED = (
    {"seed": 1, "temperature": 1.0},
    {"seed": 2, "temperature": 0.8, "top_p": 0.9, "top_k": 50, "top_n_sigma": 2.0},
    {"seed": 3, "temperature": 1.3, "min_p": 0.05, "frequency_penalty": 0.7, "presence_penalty": 0.4},
    {"seed": 4, "temperature": 1.0, "repetition_penalty": 1.3, "logit_bias": (TokenBias(198, 3.0),)},
    {"seed": 5, "temperature": 1.0, "structured_output": JSON},
    {"seed": 6, "temperature": 1.0, "bad_words_token_ids": ((198,), (28, 284)), "min_tokens": 5, "ignore_eos": False},
)
"""Sampling parameters of the requests that are compared."""


@pytest.fixture(scope="module")
def token_ids(smollm2_dir):
    text = Path(__file__).parents[2].joinpath("docs", "architecture.md").read_text()
    return Tokenizer.from_file(str(smollm2_dir / "tokenizer.json")).encode(text).ids


@pytest.fixture(scope="module")
def prompts(token_ids):
    """One for each of `SEEDED`, of 40 to 190 tokens."""
    return [token_ids[50 * number : 50 * number + 40 + 30 * number] for number in range(len(SEEDED))]


@pytest.fixture(scope="module")
def make_harness(smollm2_dir):
    def make_harness(num_blocks=256, **settings):
        model = ModelConfig(model=str(smollm2_dir), dtype="float32", max_model_len=512, threads=1)
        scheduling = {"max_num_seqs": 64, "max_num_batched_tokens": 512, **settings}
        cache = CacheConfig(block_size=16, num_blocks=num_blocks)
        runner = load_model_runner(model, cache, SchedulerConfig(**scheduling), lambda stage: None)
        return CoreHarness(runner, block_size=16, **scheduling)

    return make_harness


def add_seeded(harness, prompts):
    return [
        harness.add(prompt, max_tokens=NUM_NEW_TOKENS, **params) for prompt, params in zip(prompts, SEEDED, strict=True)
    ]


def answers_of(harness, ids):
    harness.run()
    harness.check_idle()
    return [harness.token_ids[i] for i in ids]


@pytest.fixture(scope="module")
def alone(make_harness, prompts):
    """Each answer without any neighbour."""
    harness = make_harness()
    answers = []
    for prompt, params in zip(prompts, SEEDED, strict=True):
        request_id = harness.add(prompt, max_tokens=NUM_NEW_TOKENS, **params)
        answers += answers_of(harness, [request_id])
    assert all(len(answer) > 4 for answer in answers)
    return answers


def test_in_a_batch_of_32_others(make_harness, prompts, alone, token_ids):
    harness = make_harness()
    for number in range(16):
        harness.add(token_ids[number : number + 20 + number], seed=number, temperature=1.0, max_tokens=20)
    ids = add_seeded(harness, prompts)
    for number in range(16):
        harness.add(token_ids[number : number + 30], seed=1, temperature=0.7, top_p=0.5, max_tokens=5 + number)
    assert answers_of(harness, ids) == alone


def test_with_chunked_prefill(make_harness, prompts, alone):
    harness = make_harness(max_num_batched_tokens=64, max_prefill_chunk=16)
    assert answers_of(harness, add_seeded(harness, prompts)) == alone


def test_after_forced_preemption(make_harness, prompts, alone):
    harness = make_harness(num_blocks=48)
    assert answers_of(harness, add_seeded(harness, prompts)) == alone
    assert harness.scheduler.num_preemptions > 0


def test_resumed_from_any_position(make_harness, prompts, alone):
    harness = make_harness()
    expected, ids = [], []
    for prompt, params, answer in zip(prompts, SEEDED, alone, strict=True):
        for num_emitted in range(1, len(answer)):
            resumed = [*prompt, *answer[:num_emitted]]
            ids.append(harness.add(resumed, num_resumed_tokens=num_emitted, max_tokens=NUM_NEW_TOKENS, **params))
            expected.append(answer[num_emitted:])
    assert answers_of(harness, ids) == expected
