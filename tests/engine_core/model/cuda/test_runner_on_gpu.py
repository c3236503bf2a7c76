"""The whole runner on a GPU against the same on the CPU: eager steps, and CUDA graphs of decodes."""

import numpy as np
import pytest
import torch

from engine_core.model.cuda.decode_arrays import DecodeArrays
from engine_core.model.request_span import RequestSpan
from engine_core.model.step_spans import StepSpans
from ipc.messages import Task
from ipc.sampling_params import SamplingParams
from tests.engine_core.model.decoder.families import save_model

pytestmark = pytest.mark.gpu

PROMPTS = {key: [(7 * number + key) % 190 + 3 for number in range(3 + 23 * key)] for key in range(5)}


@pytest.fixture(params=["graphs", "eager"])
def drive(request, drive_tiny):
    """A driver of a model on the GPU in fp32."""

    def make(folder, **settings):
        is_eager = request.param == "eager"
        driver = drive_tiny(folder, device="cuda", enforce_eager=is_eager, **settings)
        assert (driver.runner._decode_graphs is None) == is_eager
        return driver

    return make


def decode_in_mixed_batches(driver):
    """Requests come and go, prompts in chunks beside decodes; returns the tokens of each."""
    for key, prompt in PROMPTS.items():
        driver.add(key, prompt)
    driver.step(k0=3, k1=26, k2=20)
    driver.step(k0=1, k1=1, k2=29, k3=60)
    driver.step(k0=1, k1=1, k2=1, k3=12, k4=95)
    for _ in range(12):
        driver.step(k0=1, k1=1, k2=1, k3=1, k4=1)
    driver.drop(1)
    for _ in range(6):
        driver.step(k4=1, k0=1, k3=1)
    return driver.tokens


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gemma3", "mistral"])
def test_greedy_tokens_of_mixed_batches_equal_those_of_the_cpu(drive, drive_tiny, tmp_path, name):
    save_model(name, tmp_path)
    (tmp_path / "tokenizer.json").write_text(_TOKENIZER)
    expected = decode_in_mixed_batches(drive_tiny(tmp_path, cpu_kernels=False))
    assert decode_in_mixed_batches(drive(tmp_path)) == expected


@pytest.mark.parametrize("impl", ["native", "transformers"])
def test_both_kinds_of_network_run(drive, llama_dir, generate, impl):
    driver = drive(llama_dir, model_impl=impl)
    driver.add(1, PROMPTS[2])
    driver.add(2, PROMPTS[3])
    driver.step(k1=49, k2=72)
    for _ in range(9):
        driver.step(k2=1, k1=1)
    assert driver.tokens[1] == generate(llama_dir, PROMPTS[2], 10)
    assert driver.tokens[2] == generate(llama_dir, PROMPTS[3], 10)


def test_a_second_request_reads_the_blocks_of_a_shared_prefix(drive, llama_dir, generate):
    driver, prefix = drive(llama_dir), PROMPTS[2][:32]
    driver.add(1, [*prefix, 7, 8])
    driver.step(k1=34)
    driver.add(2, [*prefix, 9, 10, 11], cached_blocks=driver.blocks[1][:2])
    driver.step(k1=1, k2=3)
    driver.decode(2, 7)
    assert driver.tokens[2] == generate(llama_dir, [*prefix, 9, 10, 11], 8)


def test_padding_of_a_batch_writes_to_no_block(drive_tiny, llama_dir):
    driver = drive_tiny(llama_dir, device="cuda")
    for key in range(3):
        driver.add(key, PROMPTS[1])
    driver.step(k0=26, k1=26, k2=26)
    cache = driver.runner._kv_tensors
    before = torch.stack(cache.keys).clone()
    driver.step(k0=1, k1=1, k2=1)  # padded to 4
    changed = (torch.stack(cache.keys) != before).any(dim=(0, 2, 3)).nonzero()[:, 0]
    expected = sorted(driver.blocks[key][26 // 16] * 16 + 26 % 16 for key in range(3))
    assert changed.tolist() == expected


def test_a_seeded_request_samples_the_same_in_a_batch_and_by_graphs(drive, llama_dir):
    params = SamplingParams(max_tokens=50, temperature=0.8, top_p=0.95, top_k=40, seed=5, ignore_eos=True)
    driver = drive(llama_dir)
    driver.add(1, PROMPTS[2], params)
    driver.step(k1=49)
    driver.decode(1, 11)
    driver.add(2, PROMPTS[2], params)
    driver.add(3, PROMPTS[1], SamplingParams(max_tokens=50, seed=99))
    driver.step(k2=13, k3=26)
    driver.step(k3=1, k2=36)
    for _ in range(11):
        driver.step(k3=1, k2=1)
    assert driver.tokens[1] == driver.tokens[2]


def test_embeddings_and_prompt_logprobs_equal_those_of_the_cpu(drive, drive_tiny, llama_dir):
    params = SamplingParams(max_tokens=5, temperature=0.0, num_prompt_logprobs=2, num_logprobs=2)
    results = []
    for driver in (drive(llama_dir), drive_tiny(llama_dir)):
        driver.add(1, PROMPTS[2], task=Task.EMBED)
        driver.add(2, PROMPTS[1], params)
        results.append(driver.step(k1=49, k2=26))
    on_gpu, on_cpu = results
    assert np.allclose(on_gpu.embeddings[1], on_cpu.embeddings[1], atol=1e-5)
    assert np.allclose(on_gpu.prompt_logprobs[2].values, on_cpu.prompt_logprobs[2].values, atol=1e-3)
    assert np.allclose(on_gpu.logprobs[2].values, on_cpu.logprobs[2].values, atol=1e-3)


def test_nan_in_one_requests_cache_fails_only_that_request(drive, llama_dir, generate):
    driver = drive(llama_dir)
    driver.add(1, PROMPTS[1])
    driver.add(2, PROMPTS[2])
    driver.step(k1=26, k2=49)
    first = driver.blocks[1][0] * 16
    driver.runner._kv_tensors.keys[0][first : first + 16] = torch.nan
    assert driver.step(k1=1, k2=1).failures == {1: "nan_logits"}
    driver.drop(1)
    driver.decode(2, 5)
    assert driver.tokens[2] == generate(llama_dir, PROMPTS[2], 7)


def test_inputs_of_a_graph_reach_the_gpu_as_they_are():
    on_gpu, on_cpu = (DecodeArrays(8, 100, 16, torch.device(kind)) for kind in ("cuda", "cpu"))
    spans = [RequestSpan(row, 1, 20 + 9 * row, np.array([3 * row, 4, 5]), 16) for row in range(3)]
    for arrays in (on_gpu, on_cpu):
        arrays.fill(4, np.array([5, 6, 7]), StepSpans.of(spans))
    for ours, expected in zip(on_gpu.views(4)[:2], on_cpu.views(4)[:2], strict=True):
        assert ours.tolist() == expected.tolist()
    for name in ("slots", "num_tokens", "query_starts", "block_tables"):
        assert getattr(on_gpu.views(4)[2], name).tolist() == getattr(on_cpu.views(4)[2], name).tolist()


_TOKENIZER = """{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
"pre_tokenizer": null, "post_processor": null, "decoder": null,
"model": {"type": "WordLevel", "vocab": {"<unk>": 0, "a": 1}, "unk_token": "<unk>"}}"""
