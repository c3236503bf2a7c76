"""The engine core with SmolLM2 says in fp32 exactly what transformers' own `generate` says.

Whatever the scheduler does on the way: chunks, prefix-cache hits, preemption, neighbours in the batch.
"""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import engine_core.model.sampling.batch_sampler as batch_sampler_module
from engine_core.model.loader import load_model_runner
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.messages import FinishReason
from tests.factories import CoreHarness

pytestmark = [pytest.mark.model, pytest.mark.timeout(300), pytest.mark.usefixtures("frees_models")]

NUM_NEW_TOKENS = 16
PROMPT_LENGTHS = (5, 17, 32, 33, 64, 100, 211, 300, 512, 700)
TEXT = Path(__file__).parents[2].joinpath("docs", "architecture.md").read_text()


@pytest.fixture(scope="module")
def prompts(smollm2_dir):
    """Ten different prompts of 5 to 700 tokens."""
    token_ids = AutoTokenizer.from_pretrained(smollm2_dir)(TEXT).input_ids
    return [token_ids[7 * number : 7 * number + length] for number, length in enumerate(PROMPT_LENGTHS)]


@pytest.fixture(scope="module")
def reference(smollm2_dir, prompts):
    """What transformers' `generate` says after each prompt, and the logits of its first token `[vocab_size]`."""
    torch.set_num_threads(1)  # a team of threads crawls wherever something else runs
    network = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32)
    options = {"max_new_tokens": NUM_NEW_TOKENS, "min_new_tokens": NUM_NEW_TOKENS, "do_sample": False}
    options |= {"eos_token_id": None, "return_dict_in_generate": True, "output_logits": True}
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        answer = network.generate(ids, attention_mask=torch.ones_like(ids), **options)
        answers.append((answer.sequences[0, len(prompt) :].tolist(), answer.logits[0][0]))
    return answers


@pytest.fixture(scope="module")
def expected(reference):
    return [token_ids for token_ids, _ in reference]


WITHOUT_KERNELS = "native without kernels"


@pytest.fixture(params=["native", WITHOUT_KERNELS, "transformers"])
def model_impl(request):
    return request.param


def make_harness(model_dir, *, num_blocks=256, dtype="float32", model_impl="auto", **settings):
    choice = {"model_impl": model_impl.split()[0], "cpu_kernels": model_impl != WITHOUT_KERNELS}
    model = ModelConfig(model=str(model_dir), dtype=dtype, max_model_len=1024, threads=1, **choice)
    scheduling = {"max_num_seqs": 16, "max_num_batched_tokens": 512, **settings}
    cache = CacheConfig(block_size=32, num_blocks=num_blocks)
    runner = load_model_runner(model, cache, SchedulerConfig(**scheduling), lambda stage: None)
    return CoreHarness(runner, block_size=32, **scheduling)


def generate(harness, prompts, num_tokens=NUM_NEW_TOKENS):
    ids = [harness.add(prompt, max_tokens=num_tokens) for prompt in prompts]
    harness.run()
    harness.check_idle()
    assert {harness.finished[i].reason for i in ids} == {FinishReason.LENGTH}
    return ids, [harness.token_ids[i] for i in ids]


def test_chunked_prefill_says_the_same_and_so_does_a_warm_prefix_cache(smollm2_dir, prompts, expected, model_impl):
    harness = make_harness(smollm2_dir, model_impl=model_impl, max_num_batched_tokens=96, max_prefill_chunk=48)
    cold_ids, cold = generate(harness, prompts)
    warm_ids, warm = generate(harness, prompts)
    assert cold == expected
    assert warm == expected
    assert all(harness.finished[i].num_cached_tokens >= 32 for i in warm_ids[-6:])
    assert all(harness.finished[i].num_cached_tokens == 0 for i in cold_ids[:2])


def test_preemption_says_the_same(smollm2_dir, prompts, expected, model_impl):
    harness = make_harness(smollm2_dir, num_blocks=26, model_impl=model_impl)
    _, answers = generate(harness, prompts[::-1])  # the longest first, so that short ones fill the gaps beside it
    assert answers == expected[::-1]
    assert harness.scheduler.num_preemptions > 0


def test_32_requests_with_blocks_for_a_third_finish_with_the_same_texts(smollm2_dir, prompts):
    short_prompts = [prompts[9][20 * number : 20 * number + 40 + number] for number in range(32)]
    plenty = make_harness(smollm2_dir, num_blocks=256, max_num_seqs=32)
    scarce = make_harness(smollm2_dir, num_blocks=28, max_num_seqs=32)
    _, with_plenty = generate(plenty, short_prompts, num_tokens=24)
    _, with_scarce = generate(scarce, short_prompts, num_tokens=24)
    assert with_scarce == with_plenty
    assert (plenty.scheduler.num_preemptions, scarce.scheduler.num_preemptions > 0) == (0, True)


def last_logits(harness, prompts, monkeypatch):
    """The logits from which the first token after each prompt is drawn, one prompt at a time: `[prompts, vocab]`."""
    seen = []
    sample = batch_sampler_module.sample

    def recording_sample(logits, *arguments):
        seen.append(logits[-1].float().clone())
        return sample(logits, *arguments)

    monkeypatch.setattr(batch_sampler_module, "sample", recording_sample)
    for prompt in prompts:
        generate(harness, [prompt], num_tokens=1)
    return torch.stack(seen)


@pytest.fixture(scope="module")
def expected_logits(reference):
    return torch.stack([logits for _, logits in reference])


def test_the_last_logits_equal_those_of_transformers(smollm2_dir, prompts, expected_logits, monkeypatch, model_impl):
    logits = last_logits(make_harness(smollm2_dir, model_impl=model_impl), prompts, monkeypatch)
    assert (logits - expected_logits).abs().max() < 1e-3


def test_bfloat16_logits_are_those_of_float32_but_for_rounding(smollm2_dir, prompts, expected_logits, monkeypatch):
    logits = last_logits(make_harness(smollm2_dir, dtype="bfloat16"), prompts[:5], monkeypatch)
    error = (logits - expected_logits[:5]).std() / expected_logits[:5].std()
    assert error < 0.05
    assert torch.nn.functional.cosine_similarity(logits, expected_logits[:5]).min() > 0.995
