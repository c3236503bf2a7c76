"""Requests of two adapters and of the model itself in one batch, each beside a model with merged weights alone."""

import pytest

from ipc.messages import Task
from tests.factories import CoreHarness
from tests.lora_adapters import make_adapter, merge_adapter

PROMPT = [(7 * index) % 190 + 3 for index in range(45)]
NUM_TOKENS = 12
NAMES = ("", "one", "two")


@pytest.fixture(scope="session")
def model_dirs(llama_dir, tmp_path_factory):
    """Of what computes the answers of each name alone; adapters lie in `NAME`, merged models in `NAME-merged`."""
    folder, dirs = tmp_path_factory.mktemp("adapters"), {"": llama_dir}
    for seed, name in enumerate(("one", "two")):
        targets = ("q_proj", "v_proj") if name == "two" else ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj")
        adapter = make_adapter(folder / name, llama_dir, seed=seed, rank=5 + 3 * seed, targets=targets, lora_alpha=7.0)
        dirs[name] = merge_adapter(folder / f"{name}-merged", llama_dir, adapter, 7.0 / (5 + 3 * seed))
    return dirs


@pytest.fixture(scope="session")
def expected(model_dirs, generate):
    """Prompt and answer of each name, by transformers."""
    return {name: generate(folder, PROMPT, NUM_TOKENS) for name, folder in model_dirs.items()}


@pytest.fixture(params=[True, False], ids=["kernels", "torch"])
def driver(request, model_dirs, drive_tiny, llama_dir):
    lora = tuple(f"{name}={model_dirs[name].parent / name}" for name in ("one", "two"))
    return drive_tiny(llama_dir, model_impl="native", cpu_kernels=request.param, lora=lora)


def test_the_adapters_make_a_difference(expected):
    assert len({tuple(tokens) for tokens in expected.values()}) == 3


def test_each_row_of_a_batch_has_its_own_adapter(driver, expected):
    for key, name in enumerate(NAMES):
        driver.add(key, PROMPT, adapter=name)
    driver.step(k0=45, k1=45, k2=45)
    for _ in range(NUM_TOKENS - 1):
        driver.step(k0=1, k1=1, k2=1)
    assert {name: driver.tokens[key] for key, name in enumerate(NAMES)} == expected


def test_prompts_come_in_chunks_beside_decodes_of_others(driver, expected):
    driver.add(1, PROMPT, adapter="one")
    driver.step(k1=45)
    driver.add(0, PROMPT)
    driver.add(2, PROMPT, adapter="two")
    driver.step(k1=1, k2=13, k0=20)
    driver.step(k1=1, k0=25, k2=1)
    driver.step(k1=1, k2=31, k0=1)
    for _ in range(NUM_TOKENS):
        driver.step(k1=1, k0=1, k2=1)
    assert {name: driver.tokens[key][: 45 + NUM_TOKENS] for key, name in enumerate(NAMES)} == expected


def test_a_request_goes_on_from_blocks_that_another_one_of_its_adapter_wrote(driver, expected):
    driver.add(1, PROMPT, adapter="one")
    driver.step(k1=45)
    driver.add(2, PROMPT, adapter="one", cached_blocks=driver.blocks[1][:2])
    driver.step(k2=13, k1=1)
    driver.decode(2, NUM_TOKENS - 1)
    assert driver.tokens[2] == expected["one"]


@pytest.mark.parametrize("speculative", ["off", "ngram"])
def test_in_a_core_answers_are_exact_and_only_equal_names_share_prefixes(driver, expected, speculative):
    core = CoreHarness(driver.runner, speculative=speculative, speculative_max_batch=8, max_prefill_chunk=16)
    for _ in range(2):
        keys = {core.add(PROMPT, adapter=name, max_tokens=NUM_TOKENS): name for name in NAMES}
        core.run()
        for key, name in keys.items():
            assert PROMPT + core.token_ids[key] == expected[name]
    num_cached = [core.finished[key].num_cached_tokens for key in core.finished]
    assert sorted(num_cached) == [0, 0, 0, 32, 32, 32]
    core.check_idle()


def test_an_embedding_is_that_of_the_merged_model(driver, model_dirs, load_tiny):
    core = CoreHarness(driver.runner)
    keys = {name: core.add(PROMPT, Task.EMBED, adapter=name) for name in NAMES}
    core.run()
    for name, key in keys.items():
        alone = CoreHarness(load_tiny(model_dirs[name]))
        vector = alone.add(PROMPT, Task.EMBED)
        alone.run()
        assert core.embeddings[key] == pytest.approx(alone.embeddings[vector], abs=1e-5)
