"""Prompt logprobs do not depend on chunks or slices, and their memory depends on nothing."""

import numpy as np
import pytest
import torch

import engine_core.model.sampling.prompt_logprobs as prompt_logprobs_module
from engine_core.model.sampling.prompt_logprobs import PromptLogprobs
from tests.engine_core.model.sampling import reference
from tests.memory import peak_growth_bytes

HIDDEN_SIZE = 16


def random_model(vocab_size, num_tokens, dtype=torch.float32):
    """Hidden states of a prompt, a head over them, and the prompt."""
    generator = torch.Generator().manual_seed(vocab_size)
    hidden = torch.randn(num_tokens, HIDDEN_SIZE, generator=generator).to(dtype)
    head = torch.randn(HIDDEN_SIZE, vocab_size, generator=generator).to(dtype)
    prompt = torch.randint(0, vocab_size, (num_tokens,), generator=generator).to(torch.int32).numpy()
    return hidden, head, prompt


def collect(hidden, head, prompt, chunks, num_top=3):
    collected = PromptLogprobs(prompt, num_top, head.shape[1])
    start = 0
    for size in chunks:
        collected.add(start, hidden[start : start + size], lambda rows: rows @ head)
        start += size
    return collected


@pytest.mark.parametrize("chunks", [(50,), (20, 30), (49, 1), (1,) * 50])
@pytest.mark.parametrize("rows_per_slice", [1, 7, 1000])
def test_position_i_predicts_the_token_after_it(chunks, rows_per_slice, monkeypatch):
    bytes_per_row = 300 * prompt_logprobs_module.BYTES_PER_LOGIT
    monkeypatch.setattr(prompt_logprobs_module, "SLICE_BYTES", rows_per_slice * bytes_per_row)
    hidden, head, prompt = random_model(300, 50)
    collected = collect(hidden, head, prompt, chunks)
    assert collected.num_missing == 0
    result = collected.result()
    expected = reference.log_softmax((hidden @ head).numpy())[:-1]
    own = expected[np.arange(49), prompt[1:]]
    entries = np.array(result.values).reshape(49, 4)
    np.testing.assert_allclose(entries[:, 0], own, atol=1e-5)
    np.testing.assert_allclose(entries[:, 1:], np.sort(expected, axis=-1)[:, :-4:-1], atol=1e-5)
    assert np.array(result.token_ids).reshape(49, 4)[:, 0].tolist() == prompt[1:].tolist()
    assert list(result.ranks) == (1 + (expected > own[:, None]).sum(axis=-1)).tolist()


def test_a_chunk_that_was_never_computed_is_missed():
    hidden, head, prompt = random_model(300, 50)
    collected = PromptLogprobs(prompt, 0, 300)
    collected.add(16, hidden[16:], lambda rows: rows @ head)
    assert collected.num_missing == 16


def test_a_prompt_of_one_token_has_none():
    hidden, head, prompt = random_model(300, 1)
    collected = collect(hidden, head, prompt, (1,))
    assert collected.num_missing == 0
    assert len(collected.result().values) == 0


@pytest.mark.parametrize("vocab_size", [49_152, 262_145])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peak_memory_stays_below_64_mib(vocab_size, dtype):
    hidden, head, prompt = random_model(vocab_size, 200, dtype)
    collect(hidden[:2], head, prompt[:2], (2,))  # whatever libraries allocate once
    growth = peak_growth_bytes(lambda: collect(hidden, head, prompt, (200,), num_top=20))
    assert 200 * HIDDEN_SIZE < growth <= 64 * 2**20


def test_the_measure_of_memory_sees_what_is_freed_again():
    assert peak_growth_bytes(lambda: torch.ones(25 * 2**20)) >= 90 * 2**20
