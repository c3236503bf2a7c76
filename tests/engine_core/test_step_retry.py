"""Steps that fail, around the fake model: its tokens show at once where a request reads what was not written."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_core.outputs import StepMemoryError
from ipc.messages import FinishReason, Task
from ipc.structured_output import GrammarKind, StructuredOutput
from tests.engine_core.test_core import expected_tokens, make_harness
from tests.factories import BLOCK_SIZE, CoreHarness, make_fake_runner


class FaultyRunner:
    """The fake runner, whose steps fail where they hold a bad request, or by chance, and leave garbage in the cache."""

    def __init__(self, runner, *, is_bad=lambda step: False, error=RuntimeError):
        self._runner = runner
        self.is_bad = is_bad
        self.error = error
        self.num_executions = 0

    @property
    def info(self):
        return self._runner.info

    def execute(self, step):
        self.num_executions += 1
        if not self.is_bad(step):
            return self._runner.execute(step)
        self._runner.execute(step)  # its tokens are lost, and its own state has gone on
        for item in step.scheduled:
            request = self._runner._requests[item.key]
            end = item.num_computed_tokens + item.num_scheduled_tokens
            self._runner._kv_cache[self._runner._slots(request, item.num_computed_tokens, end)] = -7
        raise self.error("injected by the test")


def faulty_harness(folder, *, num_blocks=64, **settings):
    runner = FaultyRunner(make_fake_runner(folder, num_blocks=num_blocks))
    return CoreHarness(runner, **settings), runner


def holds(*keys):
    return lambda step: any(item.key in keys for item in step.scheduled)


def once(condition=lambda step: True):
    """The first step for which the condition holds."""
    has_failed = []

    def is_bad(step):
        if has_failed or not condition(step):
            return False
        has_failed.append(step.step)
        return True

    return is_bad


def test_one_bad_request_of_eight_ends_and_the_others_stay_exact(tmp_path):
    harness, runner = faulty_harness(tmp_path)
    ids = [harness.add([number] * 20, max_tokens=9) for number in range(8)]
    runner.is_bad = holds(harness.keys[ids[5]])
    harness.run()
    assert harness.finished[ids[5]].error_code == "step_failed"
    others = [number for number in range(8) if number != 5]
    assert [harness.token_ids[ids[n]] for n in others] == [expected_tokens([n] * 20, 9) for n in others]
    harness.check_idle()


def test_a_bad_request_costs_few_executions(tmp_path):
    harness, runner = faulty_harness(tmp_path)
    ids = [harness.add([number], max_tokens=1) for number in range(8)]
    runner.is_bad = holds(harness.keys[ids[5]])
    harness.run()
    assert runner.num_executions == 7  # all, then 0-3, 4-7, 4-5, 4, 5, 6-7


def test_a_failure_that_does_not_come_back_ends_nobody(tmp_path):
    harness, runner = faulty_harness(tmp_path)
    prompts = [[number] * 40 for number in range(4)]
    ids = [harness.add(prompt, max_tokens=20) for prompt in prompts]
    runner.is_bad = once(lambda step: step.step == 7)
    harness.run()
    assert [harness.token_ids[i] for i in ids] == [expected_tokens(prompt, 20) for prompt in prompts]
    assert harness.core.num_failed_steps == 1


def test_a_request_that_shares_blocks_of_a_bad_one_in_the_same_step_is_computed_anew(tmp_path):
    harness, runner = faulty_harness(tmp_path, max_num_batched_tokens=256)
    prefix = list(range(4 * BLOCK_SIZE))
    bad, sharing, other = (harness.add([*prefix, 1]), harness.add([*prefix, 2]), harness.add([9]))
    runner.is_bad = holds(harness.keys[bad])
    harness.run()
    assert harness.finished[bad].error_code == "step_failed"
    assert harness.token_ids[sharing] == expected_tokens([*prefix, 2], 8)
    assert harness.token_ids[other] == expected_tokens([9], 8)
    harness.check_idle()


@pytest.mark.parametrize("kind", ["embedding", "prompt logprobs"])
def test_what_is_collected_over_several_steps_survives_a_failure_in_the_middle(tmp_path, kind):
    harness, runner = faulty_harness(tmp_path, max_num_batched_tokens=16, max_num_seqs=4)
    clean = make_harness(tmp_path, max_num_batched_tokens=16, max_num_seqs=4)
    results = []
    for each in (harness, clean):
        other = each.add([5], max_tokens=30)
        if kind == "embedding":
            request_id = each.add(range(100), task=Task.EMBED)
        else:
            request_id = each.add(range(100), num_prompt_logprobs=1)
        runner.is_bad = once(lambda step: len(step.scheduled) == 2 and step.scheduled[1].num_computed_tokens > 30)
        each.run()
        assert each.token_ids[other] == expected_tokens([5], 30)
        results.append((each.embeddings.get(request_id), each.logprobs[request_id], each.token_ids[request_id]))
    assert results[0] == results[1]
    assert harness.core.num_failed_steps == 1
    harness.check_idle()


def test_a_bad_embedding_in_the_middle_ends_alone(tmp_path):
    harness, runner = faulty_harness(tmp_path, max_num_batched_tokens=16, max_num_seqs=4)
    bad, other = harness.add(range(100), task=Task.EMBED), harness.add([5], max_tokens=30)
    key = harness.keys[bad]
    runner.is_bad = lambda step: any(item.key == key and item.num_computed_tokens >= 32 for item in step.scheduled)
    harness.run()
    assert harness.finished[bad].error_code == "step_failed"
    assert harness.token_ids[other] == expected_tokens([5], 30)
    harness.check_idle()


def test_a_grammar_goes_on_behind_a_failed_step(tmp_path):
    harness, runner = faulty_harness(tmp_path)
    digits = StructuredOutput(GrammarKind.REGEX, "[0-9]{12}")
    ids = [harness.add([number], max_tokens=50, structured_output=digits) for number in range(3)]
    runner.is_bad = once(lambda step: step.step == 5)
    harness.run()
    assert all(bytes(harness.token_ids[i]).isdigit() and len(harness.token_ids[i]) == 12 for i in ids)


# --- memory ---


def test_when_memory_runs_out_the_request_with_most_tokens_ends(tmp_path):
    harness = make_harness(tmp_path, faults="oom@1", max_num_batched_tokens=256)
    prompts = [[1] * 10, [2] * 60, [3] * 30, [4] * 60]
    ids = [harness.add(prompt) for prompt in prompts]
    harness.run()
    assert harness.finished[ids[3]].error_code == "out_of_memory"  # the newest of the two that are equal
    assert [harness.token_ids[i] for i in ids[:3]] == [expected_tokens(prompt, 8) for prompt in prompts[:3]]
    harness.check_idle()


def test_when_memory_does_not_suffice_for_the_rest_either_they_are_computed_in_parts(tmp_path):
    harness, runner = faulty_harness(tmp_path, max_num_batched_tokens=256)
    runner.error = StepMemoryError
    runner.is_bad = lambda step: step.num_scheduled_tokens > 50
    prompts = [[number] * 20 for number in range(8)]
    ids = [harness.add(prompt) for prompt in prompts]
    harness.run()
    codes = [harness.finished[i].error_code for i in ids]
    assert codes == [""] * 7 + ["out_of_memory"]
    assert [harness.token_ids[i] for i in ids[:7]] == [expected_tokens(prompt, 8) for prompt in prompts[:7]]


# --- everything at once ---


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_blocks=st.integers(8, 40),
    num_requests=st.integers(1, 10),
    num_bad=st.integers(0, 3),
    chance=st.sampled_from([0.0, 0.1, 0.4]),
    speculative=st.sampled_from(["off", "ngram"]),
    error=st.sampled_from([RuntimeError, StepMemoryError]),
)
def test_no_request_ever_reads_what_a_failed_step_left(
    tmp_path_factory, seed, num_blocks, num_requests, num_bad, chance, speculative, error
):
    generator = random.Random(seed)
    folder = tmp_path_factory.getbasetemp() / "fake-tokenizer"
    harness, runner = faulty_harness(
        folder, num_blocks=num_blocks, max_num_batched_tokens=48, max_num_seqs=6, speculative=speculative
    )
    runner.error = error
    bad_keys = set()
    runner.is_bad = lambda step: holds(*bad_keys)(step) or generator.random() < chance
    prompts, is_bad = {}, {}
    for number in range(num_requests):
        shared = [7] * generator.randrange(70)
        prompt = [*shared, *(generator.randrange(3) for _ in range(generator.randrange(1, 25)))]
        request_id = harness.add(prompt[: num_blocks * BLOCK_SIZE - 30], max_tokens=generator.randrange(1, 25))
        prompts[request_id], is_bad[request_id] = prompt[: num_blocks * BLOCK_SIZE - 30], number < num_bad
        if is_bad[request_id]:
            bad_keys.add(harness.keys[request_id])
        for _ in range(generator.randrange(3)):
            if harness.core.has_requests:
                harness.step()
                harness.kv_cache.check_integrity()
    harness.run(max_steps=3000)
    harness.check_idle()
    for request_id, prompt in prompts.items():
        finished, tokens = harness.finished[request_id], harness.token_ids[request_id]
        assert tokens == expected_tokens(prompt, len(tokens))
        if chance == 0 and error is RuntimeError:
            assert (finished.error_code == "step_failed") == is_bad[request_id]
        assert finished.reason is FinishReason.LENGTH or finished.error_code in ("step_failed", "out_of_memory")
