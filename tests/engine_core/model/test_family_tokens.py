"""A random model of every family says through the whole core, greedily in fp32, what transformers says.

One request alone; then eight together, whose prompts are computed in chunks of 16 tokens and partly found in the prefix
cache. The reference for an answer of 50 tokens is one pass of transformers over prompt and answer: where each token has
the highest logit behind what precedes it, `generate` says the same.
"""

from functools import cache

import pytest
import torch

from engine_core.model.loader import load_model_runner
from engine_core.model.transformers_network import TransformersNetwork
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from tests.engine_core.model import transformers_families
from tests.engine_core.model.conftest import write_tokenizer
from tests.engine_core.model.decoder import families
from tests.factories import CoreHarness

NUM_NEW_TOKENS = 50
BLOCK_SIZE = 16
SCHEDULING = {"max_num_seqs": 8, "max_num_batched_tokens": 32, "max_prefill_chunk": 16}
LENGTHS = (40, 1, 17, 32, 33, 64, 78, 5)
"""Of the prompts; the longest ends where the models' positions end."""
PROMPTS = [[(7 * place * (number + 1)) % 190 + 3 for place in range(size)] for number, size in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """For a module of families and a name: its folder, and transformers' model."""

    @cache
    def save(module, name):
        folder = tmp_path_factory.mktemp("family")
        write_tokenizer(folder)
        return folder, module.save_model(name, folder)

    return save


def check_tokens(folder, model, **settings):
    cache_config = CacheConfig(block_size=BLOCK_SIZE, num_blocks=96)
    config = ModelConfig(model=str(folder), device="cpu", dtype="float32", threads=1, max_model_len=128, **settings)
    runner = load_model_runner(config, cache_config, SchedulerConfig(**SCHEDULING), lambda stage: None)
    harness = CoreHarness(runner, block_size=BLOCK_SIZE, **SCHEDULING)
    alone = generate(harness, PROMPTS[:1])
    together = generate(harness, PROMPTS)
    assert together[:1] == alone
    assert max(harness.finished[i].num_cached_tokens for i in harness.finished) == 32
    for prompt, answer in zip(PROMPTS, together, strict=True):
        assert answer == best_tokens(model, prompt, answer)
    return runner


def generate(harness, prompts):
    ids = [harness.add(prompt, max_tokens=NUM_NEW_TOKENS, temperature=0.0, ignore_eos=True) for prompt in prompts]
    harness.run()
    harness.check_idle()
    return [harness.token_ids[i] for i in ids]


@torch.inference_mode()
def best_tokens(model, prompt, answer):
    """The token with the highest logit behind the prompt and behind each token of the answer but the last."""
    logits = model(torch.tensor([prompt + answer[:-1]])).logits[0]
    return logits[len(prompt) - 1 :].argmax(dim=-1).tolist()


@pytest.mark.parametrize("cpu_kernels", [True, False], ids=["kernels", "torch"])
@pytest.mark.parametrize("name", families.FAMILIES)
def test_native_families(saved, name, cpu_kernels):
    folder, model = saved(families, name)
    runner = check_tokens(folder, model, model_impl="native", cpu_kernels=cpu_kernels)
    assert len(set(best_tokens(model, PROMPTS[6], PROMPTS[0]))) > 5, "the model always says the same"
    assert runner.info.max_model_len == 128


@pytest.mark.parametrize("name", transformers_families.FAMILIES)
def test_families_of_transformers(saved, name):
    folder, model = saved(transformers_families, name)
    runner = check_tokens(folder, model)
    assert isinstance(runner._network, TransformersNetwork)


def test_positions_end_where_the_table_of_them_ends(saved):
    folder, _ = saved(transformers_families, "gpt2: learned positions")
    config = ModelConfig(model=str(folder), device="cpu", dtype="float32", threads=1)
    runner = load_model_runner(config, CacheConfig(num_blocks=8), SchedulerConfig(), lambda stage: None)
    assert runner.info.max_model_len == transformers_families.LENGTH
