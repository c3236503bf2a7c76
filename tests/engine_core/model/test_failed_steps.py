"""A real network whose steps fail at different places; what the runner kept of the requests must not matter."""

import pytest
import torch

from engine_core.outputs import StepMemoryError
from ipc.messages import Task
from tests.engine_core.model.test_model_runner import prompt_of
from tests.factories import CoreHarness

PARAMS = [
    {},
    {"temperature": 1.0, "seed": 5},
    {"temperature": 1.0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
    {"bad_words_token_ids": ((7, 8), (9,)), "num_logprobs": 2},
    {"num_prompt_logprobs": 1},
]
PLACES = ["apply", "_hidden_states", "append_tokens"]
"""Requests were taken in, the cache was written, the sampler's states have gone on."""


def run(runner):
    """Tokens and logprobs of five different requests, and an embedding."""
    harness = CoreHarness(runner, max_num_batched_tokens=32, max_num_seqs=8)
    harness.kv_cache.reset_prefix_cache()
    ids = [
        harness.add(prompt_of(10 + 11 * number, seed=number), max_tokens=12, **PARAMS[number])
        for number in range(len(PARAMS))
    ]
    embedding = harness.add(prompt_of(50, seed=9), task=Task.EMBED)
    harness.run()
    harness.check_idle()
    assert not [finished.error_code for finished in harness.finished.values() if finished.error_code]
    return [harness.token_ids[i] for i in ids], [harness.logprobs[i] for i in ids], harness.embeddings[embedding]


def fail_now_and_then(monkeypatch, runner, place):
    """The method fails once in every third step of more than one request; returns the numbers of these steps."""
    owner = runner if place == "_hidden_states" else runner._batch
    method, execute = getattr(owner, place), runner.execute
    failed, to_fail = [], []

    def execute_with_failures(step):
        if step.step % 3 == 0 and step.step not in failed and len(step.scheduled) > 1:
            to_fail.append(step.step)
        return execute(step)

    def fail(argument):
        result = method(argument)
        if to_fail:
            failed.append(to_fail.pop())
            raise RuntimeError("injected")
        return result

    monkeypatch.setattr(runner, "execute", execute_with_failures)
    monkeypatch.setattr(owner, place, fail)
    return failed


@pytest.mark.parametrize("place", PLACES)
def test_answers_do_not_depend_on_failed_steps(native_llama_runner, monkeypatch, place):
    clean = run(native_llama_runner)
    failed = fail_now_and_then(monkeypatch, native_llama_runner, place)
    assert run(native_llama_runner) == clean
    assert len(failed) >= 4


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_the_end_of_memory_is_known_as_such(llama, monkeypatch, error):
    llama.add(1, [5, 6])
    monkeypatch.setattr(llama.runner, "_hidden_states", lambda inputs: (_ for _ in ()).throw(error))
    with pytest.raises(StepMemoryError):
        llama.step(k1=2)


def test_when_memory_runs_out_one_request_ends_and_the_others_are_exact(native_llama_runner, monkeypatch):
    def answers(harness):
        ids = [harness.add(prompt_of(10 + number, seed=number), max_tokens=9) for number in range(4)]
        harness.run()
        harness.check_idle()
        return ids, [harness.token_ids[i] for i in ids]

    _, clean = answers(CoreHarness(native_llama_runner))
    harness = CoreHarness(native_llama_runner)
    original, calls = native_llama_runner._hidden_states, []

    def run_out_once(inputs):
        calls.append(len(inputs.spans))
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(inputs)

    monkeypatch.setattr(native_llama_runner, "_hidden_states", run_out_once)
    ids, tokens = answers(harness)
    assert harness.finished[ids[3]].error_code == "out_of_memory"  # its prompt is the longest
    assert tokens[:3] == clean[:3]
    assert calls[:2] == [4, 3]
