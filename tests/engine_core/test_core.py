import random
import threading
import time
from array import array
from queue import SimpleQueue

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_core.model.fake_runner import IM_END_ID, fake_next_token
from engine_core.request import ClientSlot
from ipc.errors import QueueFullError
from ipc.messages import Add, ClientRole, FinishReason, RequestId, Task
from ipc.structured_output import GrammarKind, StructuredOutput
from tests.factories import BLOCK_SIZE, CoreHarness, make_fake_runner, make_params


def expected_tokens(prompt, count):
    """What the fake model says after a prompt, without any cache."""
    context = array("i", prompt)
    for _ in range(count):
        context.append(fake_next_token(context.tobytes()))
    return list(context[len(prompt) :])


def make_harness(folder, *, num_blocks=64, faults="", **settings):
    return CoreHarness(make_fake_runner(folder, num_blocks=num_blocks, faults=faults), **settings)


def random_prompts(count, longest, seed=1):
    generator = random.Random(seed)
    return [[generator.randrange(256) for _ in range(generator.randint(1, longest))] for _ in range(count)]


def test_a_request_generates_up_to_its_limit(tmp_path):
    harness = make_harness(tmp_path)
    request_id = harness.add([1, 2, 3], max_tokens=5)
    harness.run()
    assert harness.token_ids[request_id] == expected_tokens([1, 2, 3], 5)
    assert harness.finished[request_id].reason is FinishReason.LENGTH


def test_eos_ends_a_request_and_is_its_last_token(tmp_path):
    harness = make_harness(tmp_path)
    request_id = harness.add([1, 2, 3], max_tokens=1000, ignore_eos=False)
    harness.run()
    assert harness.token_ids[request_id][-1] == IM_END_ID
    assert harness.finished[request_id].reason is FinishReason.STOP


def test_texts_do_not_depend_on_chunks_preemption_or_neighbours(tmp_path):
    harness = make_harness(tmp_path, num_blocks=12, max_prefill_chunk=16)
    prompts = random_prompts(30, longest=100)
    ids = [harness.add(prompt, max_tokens=40) for prompt in prompts]
    harness.run()
    assert [harness.token_ids[i] for i in ids] == [expected_tokens(prompt, 40) for prompt in prompts]
    assert harness.scheduler.num_preemptions > 0
    harness.check_idle()


def test_a_shared_prefix_is_computed_once_even_within_one_step(tmp_path):
    harness = make_harness(tmp_path)
    prefix = list(range(3 * BLOCK_SIZE))
    ids = [harness.add([*prefix, tail]) for tail in (1, 2)]
    harness.run()
    assert [harness.finished[i].num_cached_tokens for i in ids] == [0, 3 * BLOCK_SIZE]
    assert harness.token_ids[ids[1]] == expected_tokens([*prefix, 2], 8)


def test_an_aborted_request_ends_at_once_and_frees_its_blocks(tmp_path):
    harness = make_harness(tmp_path)
    request_id = harness.add(range(100), max_tokens=1000)
    harness.step()
    harness.abort(request_id)
    assert harness.finished[request_id].reason is FinishReason.ABORT
    harness.check_idle()


def test_a_failed_step_ends_only_its_own_requests(tmp_path):
    harness = make_harness(tmp_path, faults="raise@3", max_num_seqs=1)
    first, second = harness.add([1], max_tokens=9), harness.add([2], max_tokens=9)
    harness.run()
    assert harness.finished[first].error_code == "step_failed"
    assert harness.token_ids[second] == expected_tokens([2], 9)
    harness.check_idle()


def test_a_failed_step_leaves_nothing_in_the_prefix_cache(tmp_path):
    harness = make_harness(tmp_path, faults="raise@1")
    prompt = list(range(50))
    harness.add(prompt)
    harness.run()
    again = harness.add(prompt)
    harness.run()
    assert harness.finished[again].num_cached_tokens == 0
    assert harness.token_ids[again] == expected_tokens(prompt, 8)


def test_nan_logits_end_one_request_and_the_others_stay_exact(tmp_path):
    harness = make_harness(tmp_path, faults="nan@3")
    ids = [harness.add([number], max_tokens=9) for number in range(5)]
    harness.run()
    assert harness.finished[ids[2]].error_code == "nan_logits"
    others = [number for number in range(5) if number != 2]
    assert [harness.token_ids[ids[n]] for n in others] == [expected_tokens([n], 9) for n in others]


def test_what_a_request_with_nan_logits_left_is_not_found_again(tmp_path):
    harness = make_harness(tmp_path, faults="nan@2")
    prompt = list(range(50))
    first, poisoned = harness.add([9]), harness.add(prompt)
    harness.run()
    assert harness.finished[poisoned].error_code == "nan_logits"
    again = harness.add(prompt)
    harness.run()
    assert harness.finished[again].num_cached_tokens == 0
    assert harness.token_ids[again] == expected_tokens(prompt, 8)
    assert harness.token_ids[first] == expected_tokens([9], 8)


def test_an_embedding_is_computed_in_chunks_without_the_prefix_cache(tmp_path):
    harness = make_harness(tmp_path, max_num_batched_tokens=16, max_num_seqs=4)
    ids = [harness.add(range(100), task=Task.EMBED) for _ in range(2)]
    harness.run()
    assert harness.embeddings[ids[0]] == harness.embeddings[ids[1]]
    assert [harness.finished[i].num_cached_tokens for i in ids] == [0, 0]
    harness.check_idle()


def test_the_queue_is_bounded_and_counts_only_what_waits(tmp_path):
    harness = make_harness(tmp_path, max_num_seqs=1, max_queued_requests=2)
    for number in range(3):  # one can run, two may wait
        harness.add([number], max_tokens=2)
    with pytest.raises(QueueFullError):
        harness.add([3])
    harness.step()  # the first runs now
    with pytest.raises(QueueFullError):
        harness.add([4])
    while not harness.finished:
        harness.step()
    harness.add([5])
    harness.run()
    assert len(harness.finished) == 4


@st.composite
def schedules(draw):
    """A tiny cache and requests that arrive and leave at random moments."""
    num_blocks = draw(st.integers(6, 16))
    longest = min(80, num_blocks * BLOCK_SIZE - 30)
    requests = draw(
        st.lists(
            st.tuples(st.integers(0, 20), st.integers(1, longest), st.integers(1, 25), st.booleans()),
            min_size=1,
            max_size=12,
        )
    )
    return num_blocks, requests


@settings(max_examples=200, deadline=None)
@given(schedules(), st.integers(16, 64), st.integers(1, 8))
def test_every_request_ends_exactly_once_with_its_own_text(tmp_path_factory, schedule, budget, max_num_seqs):
    num_blocks, requests = schedule
    folder = tmp_path_factory.getbasetemp() / "fake-tokenizer"
    settings_ = {"max_num_batched_tokens": budget, "max_num_seqs": max_num_seqs, "max_prefill_chunk": 16}
    harness = make_harness(folder, num_blocks=num_blocks, **settings_)
    ids = {}
    for tick in range(21):
        for number, (arrival, length, count, _) in enumerate(requests):
            if arrival == tick:
                ids[number] = harness.add([length % 7] * length, max_tokens=count)
        if harness.core.has_requests:
            harness.step()
            harness.kv_cache.check_integrity()
        for number, request_id in ids.items():
            if requests[number][3] and tick == 20 and request_id not in harness.finished:
                harness.abort(request_id)
    harness.run(max_steps=3000)
    harness.check_idle()
    assert set(harness.finished) == set(ids.values())
    for number, request_id in ids.items():
        _, length, count, _ = requests[number]
        whole = expected_tokens([length % 7] * length, count)
        is_whole = harness.finished[request_id].reason is FinishReason.LENGTH
        assert harness.token_ids[request_id] == (whole if is_whole else whole[: len(harness.token_ids[request_id])])


DIGITS = StructuredOutput(GrammarKind.REGEX, "[0-9]{3}")


# --- resumed requests ---


@pytest.mark.parametrize("num_emitted", range(1, 9))
def test_a_resumed_request_goes_on_where_it_was(tmp_path, num_emitted):
    harness, answer = make_harness(tmp_path), expected_tokens([1, 2, 3], 9)
    request_id = harness.add([1, 2, 3, *answer[:num_emitted]], num_resumed_tokens=num_emitted, max_tokens=9)
    harness.run()
    assert harness.token_ids[request_id] == answer[num_emitted:]
    assert harness.finished[request_id].num_output_tokens == 9
    assert harness.finished[request_id].num_prompt_tokens == 3


@pytest.mark.parametrize(
    ("last_token", "params", "reason"),
    [
        (7, {"max_tokens": 2}, FinishReason.LENGTH),
        (7, {"max_tokens": 9, "stop_token_ids": (7,)}, FinishReason.STOP),
        (IM_END_ID, {"max_tokens": 9, "ignore_eos": False}, FinishReason.STOP),
    ],
)
def test_a_resumed_request_that_was_complete_ends_without_a_step(tmp_path, last_token, params, reason):
    harness = make_harness(tmp_path)
    request_id = harness.add([1, 2, 3, 5, last_token], num_resumed_tokens=2, **params)
    assert harness.finished[request_id].reason is reason
    assert harness.token_ids[request_id] == []
    harness.check_idle()


def test_a_resumed_request_that_filled_the_context_ends_without_a_step(tmp_path):
    harness = make_harness(tmp_path)
    request_id = harness.add([1] * 1024, num_resumed_tokens=5, max_tokens=9)
    assert harness.finished[request_id].reason is FinishReason.LENGTH
    harness.check_idle()


@pytest.mark.parametrize("min_tokens", [0, 5])
def test_a_resumed_answer_that_completed_its_grammar_ends_without_a_step(tmp_path, min_tokens):
    harness = make_harness(tmp_path)
    params = {"max_tokens": 9, "min_tokens": min_tokens, "structured_output": DIGITS}
    request_id = harness.add([1, *b"123"], num_resumed_tokens=3, **params)
    assert harness.finished[request_id].reason is FinishReason.STOP
    assert harness.token_ids[request_id] == []
    harness.check_idle()


def test_a_resumed_answer_that_breaks_its_grammar_fails(tmp_path):
    harness = make_harness(tmp_path)
    request_id = harness.add([1, *b"12x"], num_resumed_tokens=3, structured_output=DIGITS)
    assert harness.finished[request_id].error_code == "grammar_error"


# --- deadlines ---


def test_a_request_that_waits_too_long_fails_before_it_is_computed(tmp_path):
    harness = make_harness(tmp_path, max_num_seqs=1)
    first = harness.add([1], max_tokens=30)
    overdue = harness.submit(Add(RequestId(0), array("i", [2]), make_params(), queue_timeout_ms=1))
    harness.step()
    time.sleep(0.002)
    harness.run()
    assert harness.finished[overdue].error_code == "queue_timeout"
    assert (harness.finished[overdue].num_output_tokens, harness.finished[first].num_output_tokens) == (0, 30)
    harness.check_idle()


def test_a_request_that_began_in_time_is_not_ended_by_its_queue_timeout(tmp_path):
    harness = make_harness(tmp_path)
    request_id = harness.submit(Add(RequestId(0), array("i", [2]), make_params(max_tokens=9), queue_timeout_ms=20))
    harness.step()
    time.sleep(0.03)
    harness.run()
    assert harness.finished[request_id].reason is FinishReason.LENGTH


def test_a_request_that_runs_too_long_fails_and_frees_its_blocks(tmp_path):
    harness = make_harness(tmp_path)
    request_id = harness.submit(Add(RequestId(0), array("i", [2]), make_params(max_tokens=10**6), timeout_ms=5))
    harness.run()
    assert harness.finished[request_id].error_code == "timeout"
    assert harness.finished[request_id].num_output_tokens > 0
    harness.check_idle()


def test_a_timeout_leaves_the_prefix_cache_to_the_others(tmp_path):
    harness = make_harness(tmp_path)
    prefix = list(range(3 * BLOCK_SIZE))
    harness.submit(Add(RequestId(0), array("i", [*prefix, 1]), make_params(max_tokens=10**6), timeout_ms=5))
    harness.run()
    later = harness.add([*prefix, 2])
    harness.run()
    assert harness.finished[later].num_cached_tokens == 3 * BLOCK_SIZE


# --- structured output ---


def test_a_grammar_holds_and_ends_the_answer(tmp_path):
    harness = make_harness(tmp_path)
    request_id = harness.add([1], max_tokens=50, structured_output=DIGITS)
    harness.run()
    assert bytes(harness.token_ids[request_id]).isdigit()
    assert harness.finished[request_id].reason is FinishReason.STOP
    assert harness.finished[request_id].num_output_tokens == 3


def test_the_grammar_of_an_aborted_request_is_not_begun(tmp_path, monkeypatch):
    harness = make_harness(tmp_path)
    compiler = harness.core._grammar_compiler
    gate, built, build = threading.Event(), SimpleQueue(), compiler.build

    def build_behind_the_gate(structured_output, probe):
        built.put(structured_output.spec)
        assert gate.wait(20)
        return build(structured_output, probe)

    monkeypatch.setattr(compiler, "build", build_behind_the_gate)
    requests = []
    for spec in ("1", "2", "3", "4"):  # two are compiled at a time
        params = make_params(structured_output=StructuredOutput(GrammarKind.REGEX, spec))
        add = Add(RequestId(len(requests) + 1), array("i", [1]), params)
        requests.append(harness.intake.accept(add, ClientSlot(1), ClientRole.FRONTEND))
        harness.core.add_request(requests[-1])
    begun = {built.get(timeout=10), built.get(timeout=10)}
    harness.core.abort_requests([requests[2].key])
    gate.set()
    assert {*begun, built.get(timeout=10)} == {"1", "2", "4"}
    compiler.close()
    assert built.empty()


def test_a_grammar_that_is_none_ends_only_its_own_request(tmp_path):
    harness = make_harness(tmp_path)
    broken = harness.add([1], structured_output=StructuredOutput(GrammarKind.REGEX, "["))
    other = harness.add([2], max_tokens=5)
    harness.run()
    assert harness.finished[broken].error_code == "invalid_grammar"
    assert harness.token_ids[other] == expected_tokens([2], 5)
    harness.check_idle()
