"""The log-probabilities of a prompt of 1,500 tokens are transformers' own, with SmolLM2 in fp32.

Whole and in chunks, with a cold and with a warm prefix cache, in bounded memory.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from engine_core.model.loader import load_model_runner
from engine_core.model.sampling.prompt_logprobs import PromptLogprobs
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from tests.factories import CoreHarness
from tests.memory import peak_growth_bytes

pytestmark = [pytest.mark.model, pytest.mark.timeout(300), pytest.mark.usefixtures("frees_models")]

NUM_TOKENS = 1500
NUM_TOP = 5


@pytest.fixture(scope="module")
def prompt(smollm2_dir):
    text = Path(__file__).parents[2].joinpath("docs", "architecture.md").read_text()
    token_ids = Tokenizer.from_file(str(smollm2_dir / "tokenizer.json")).encode(text).ids
    return (token_ids * 3)[:NUM_TOKENS]


@pytest.fixture(scope="module")
def expected(smollm2_dir, prompt):
    """`[NUM_TOKENS - 1, vocab_size]` fp32: row i is what transformers says of token i + 1."""
    torch.set_num_threads(1)  # a team of threads crawls wherever something else runs
    network = LlamaForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32)
    with torch.inference_mode():
        return network(torch.tensor([prompt])).logits[0, :-1].log_softmax(dim=-1).numpy()


def make_harness(model_dir, **settings):
    model = ModelConfig(model=str(model_dir), dtype="float32", max_model_len=2048, threads=1)
    scheduling = {"max_num_batched_tokens": 2048, **settings}
    cache = CacheConfig(block_size=32, num_blocks=160)
    runner = load_model_runner(model, cache, SchedulerConfig(**scheduling), lambda stage: None)
    return CoreHarness(runner, block_size=32, **scheduling)


def prompt_rows(harness, prompt):
    """Ranks `[NUM_TOKENS - 1]`, token ids and values `[NUM_TOKENS - 1, 1 + NUM_TOP]` of a fresh request."""
    request_id = harness.add(prompt, max_tokens=1, num_prompt_logprobs=NUM_TOP)
    harness.run()
    harness.check_idle()
    assert harness.num_prompt_logprobs[request_id] == NUM_TOKENS - 1
    ranks, token_ids, values = zip(*harness.logprobs[request_id], strict=True)
    return np.array(ranks), np.array(token_ids), np.array(values)


def check(rows, prompt, expected):
    ranks, token_ids, values = rows
    assert token_ids[:, 0].tolist() == prompt[1:]
    np.testing.assert_allclose(values, np.take_along_axis(expected, token_ids, axis=-1), atol=1e-3)
    best = np.sort(np.partition(expected, -NUM_TOP)[:, -NUM_TOP:])[:, ::-1]
    np.testing.assert_allclose(values[:, 1:], best, atol=1e-3)
    own = expected[np.arange(NUM_TOKENS - 1), prompt[1:]][:, None]
    assert ((expected > own + 2e-3).sum(axis=-1) < ranks).all()
    assert ((expected > own - 2e-3).sum(axis=-1) >= ranks).all()


def test_in_chunks_they_equal_transformers_with_a_cold_and_a_warm_prefix_cache(smollm2_dir, prompt, expected):
    harness = make_harness(smollm2_dir, max_num_batched_tokens=256)
    check(prompt_rows(harness, prompt), prompt, expected)
    plain = harness.add(prompt, max_tokens=1)
    harness.run()
    assert harness.finished[plain].num_cached_tokens > 1400
    check(prompt_rows(harness, prompt), prompt, expected)


def test_whole_they_equal_transformers_and_take_less_than_64_mib(smollm2_dir, prompt, expected, monkeypatch):
    """All logits of the prompt together would take 295 MB."""
    harness = make_harness(smollm2_dir)
    add, growths = PromptLogprobs.add, []

    def measured_add(self, *arguments):
        growths.append(peak_growth_bytes(lambda: add(self, *arguments)))

    monkeypatch.setattr(PromptLogprobs, "add", measured_add)
    check(prompt_rows(harness, prompt), prompt, expected)
    assert len(growths) == 1
    assert growths[0] <= 64 * 2**20
