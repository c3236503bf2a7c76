"""A core with n-gram speculation says what it says without, however requests come, stop and share blocks."""

import zlib
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_core.model import fake_runner
from engine_core.model.fake_runner import IM_END_ID
from engine_core.speculation import drafter
from ipc.messages import FinishReason
from ipc.structured_output import GrammarKind, StructuredOutput
from tests.factories import BLOCK_SIZE, CoreHarness, make_fake_runner

PERIOD = 5


def next_token(context, *, may_end=True):
    """Mostly what it said `PERIOD` tokens ago, but for a surprise now and then that depends on the whole context."""
    token_ids = array("i", context)
    checksum = zlib.crc32(context)
    return ord("a") + checksum % 26 if checksum % 9 == 0 or len(token_ids) < PERIOD else token_ids[-PERIOD]


@pytest.fixture(autouse=True)
def _repetitive_model(monkeypatch):
    """And drafts that do not depend on how long the steps of this run take."""
    for name in ("START_CREDIT", "MAX_CREDIT"):
        monkeypatch.setattr(drafter, name, 1e9)
    monkeypatch.setattr(fake_runner, "fake_next_token", next_token)


def expected_tokens(prompt, count):
    context = array("i", prompt)
    for _ in range(count):
        context.append(next_token(context.tobytes()))
    return list(context[len(prompt) :])


def make_harness(folder, *, num_blocks=64, faults="", **settings_):
    runner = make_fake_runner(folder, num_blocks=num_blocks, faults=faults)
    return CoreHarness(runner, **{"speculative": "ngram", **settings_})


def test_several_tokens_come_in_a_step_and_are_the_same_ones(tmp_path):
    harness = make_harness(tmp_path)
    request_id = harness.add([1, 2, 3, 4, 5], max_tokens=200)
    num_steps = 0
    while harness.core.has_requests:
        harness.step()
        num_steps += 1
    assert harness.token_ids[request_id] == expected_tokens([1, 2, 3, 4, 5], 200)
    assert harness.finished[request_id].num_output_tokens == 200
    assert num_steps < 100
    stats = harness.core.stats
    assert stats["num_draft_tokens"] > stats["num_accepted_tokens"] == 200 - num_steps
    harness.check_idle()


def test_nothing_follows_a_stop_inside_an_accepted_draft(tmp_path):
    whole = expected_tokens([1, 2, 3, 4, 5], 100)
    for length in range(20, 60):
        stop_token_id = whole[length - 1]
        end = whole.index(stop_token_id) + 1
        harness = make_harness(tmp_path)
        request_id = harness.add([1, 2, 3, 4, 5], max_tokens=100, stop_token_ids=(stop_token_id,))
        harness.run()
        assert harness.token_ids[request_id] == whole[:end]
        finished = harness.finished[request_id]
        assert (finished.reason, finished.stop_token_id) == (FinishReason.STOP, stop_token_id)
        assert finished.num_output_tokens == end
        harness.check_idle()


@pytest.mark.parametrize("max_tokens", range(10, 30))
def test_no_more_than_max_tokens_are_given(tmp_path, max_tokens):
    harness = make_harness(tmp_path)
    request_id = harness.add([1, 2, 3, 4, 5], max_tokens=max_tokens)
    harness.run()
    assert harness.token_ids[request_id] == expected_tokens([1, 2, 3, 4, 5], max_tokens)
    assert harness.finished[request_id].reason is FinishReason.LENGTH
    assert harness.finished[request_id].num_output_tokens == max_tokens


def test_an_eos_that_was_in_the_draft_ends_the_answer(tmp_path):
    harness = make_harness(tmp_path)
    request_id = harness.add([IM_END_ID, 7, 8, 9, 10] * 2, max_tokens=100, ignore_eos=False)
    harness.run()
    answer = harness.token_ids[request_id]
    assert answer == expected_tokens([IM_END_ID, 7, 8, 9, 10] * 2, len(answer))
    assert answer.index(IM_END_ID) == len(answer) - 1


def test_the_prefix_cache_holds_accepted_tokens_only(tmp_path):
    harness = make_harness(tmp_path)
    prompt = [1, 2, 3, 4, 5]
    first = harness.add(prompt, max_tokens=6 * BLOCK_SIZE)
    harness.run()
    conversation = [*prompt, *harness.token_ids[first], 9, 9, 9]
    second = harness.add(conversation, max_tokens=40)
    harness.run()
    assert harness.finished[second].num_cached_tokens == 6 * BLOCK_SIZE
    assert harness.token_ids[second] == expected_tokens(conversation, 40)


def test_requests_with_features_that_are_not_drafted_are_right_beside_drafted_ones(tmp_path):
    harness = make_harness(tmp_path)
    prompts = [[number, 2, 3, 4, 5] for number in range(3)]
    plain = harness.add(prompts[0], max_tokens=60)
    logprobs = harness.add(prompts[1], max_tokens=60, num_logprobs=2)
    digits = harness.add(prompts[2], max_tokens=60, structured_output=StructuredOutput(GrammarKind.REGEX, "[0-9]{30}"))
    harness.run()
    assert harness.token_ids[plain] == expected_tokens(prompts[0], 60)
    assert harness.token_ids[logprobs] == expected_tokens(prompts[1], 60)
    assert [row[1][0] for row in harness.logprobs[logprobs]] == harness.token_ids[logprobs]
    assert bytes(harness.token_ids[digits]).isdigit()
    assert harness.core.stats["num_accepted_tokens"] > 0


def test_a_step_that_fails_leaves_no_draft_behind(tmp_path):
    harness = make_harness(tmp_path, faults="raise@12")
    prompt = [1, 2, 3, 4, 5]
    failed = harness.add(prompt, max_tokens=200)
    harness.run()
    assert harness.finished[failed].error_code == "step_failed"
    harness.check_idle()
    again = harness.add(prompt, max_tokens=200)
    harness.run()
    assert harness.token_ids[again] == expected_tokens(prompt, 200)


def test_an_aborted_request_frees_the_blocks_of_its_draft(tmp_path):
    harness = make_harness(tmp_path)
    request_id = harness.add([1, 2, 3, 4, 5], max_tokens=1000)
    while harness.core.stats["num_accepted_tokens"] < 20:
        harness.step()
    harness.abort(request_id)
    harness.check_idle()


@st.composite
def schedules(draw):
    """A tiny cache and requests that arrive at random moments; those of equal length share their prompt."""
    num_blocks = draw(st.integers(6, 16))
    longest = min(60, num_blocks * BLOCK_SIZE - 50)
    request = st.tuples(st.integers(0, 20), st.integers(1, longest), st.integers(1, 45))
    return num_blocks, draw(st.lists(request, min_size=1, max_size=8))


@settings(max_examples=100, deadline=None)
@given(schedules(), st.integers(16, 64), st.integers(1, 8), st.integers(1, 20))
def test_every_request_gets_its_own_text(tmp_path_factory, schedule, budget, max_num_seqs, draft_tokens):
    num_blocks, requests = schedule
    harness = make_harness(
        tmp_path_factory.getbasetemp() / "fake-tokenizer",
        num_blocks=num_blocks,
        max_num_batched_tokens=budget,
        max_num_seqs=max_num_seqs,
        max_prefill_chunk=16,
        speculative_tokens=draft_tokens,
        speculative_max_batch=8,
    )
    ids = {}
    for tick in range(21):
        for number, (arrival, length, count) in enumerate(requests):
            if arrival == tick:
                ids[number] = harness.add([length % 7] * length, max_tokens=count)
        if harness.core.has_requests:
            harness.step()
            harness.kv_cache.check_integrity()
    harness.run(max_steps=3000)
    harness.check_idle()
    for number, (_, length, count) in enumerate(requests):
        assert harness.token_ids[ids[number]] == expected_tokens([length % 7] * length, count)
