"""The runner without weights does what a request asks of it, so that all around a model can be tested."""

import json
import re

import jsonschema
import pytest

from engine_core.model.fake_runner import VOCAB_SIZE
from ipc.messages import FinishReason
from ipc.structured_output import GrammarKind, StructuredOutput
from tests.factories import CoreHarness, make_fake_runner

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}
WEARING = StructuredOutput(GrammarKind.REGEX, "(.{1,300}a?){1,300}")
DIGITS = StructuredOutput(GrammarKind.REGEX, "[0-9]{30}")


@pytest.fixture
def harness(tmp_path):
    return CoreHarness(make_fake_runner(tmp_path))


def text_of(harness, request_id):
    return bytes(token_id for token_id in harness.token_ids[request_id] if token_id < 256).decode()


def test_answers_follow_their_schema(harness):
    form = StructuredOutput(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))
    ids = [harness.add([number], max_tokens=300, structured_output=form) for number in range(20)]
    harness.run()
    assert {harness.finished[request_id].reason for request_id in ids} == {FinishReason.STOP}
    for request_id in ids:
        jsonschema.validate(json.loads(text_of(harness, request_id)), SCHEMA)


def test_the_answer_is_the_same_after_preemption(tmp_path):
    texts = []
    for num_blocks in (64, 9):
        harness = CoreHarness(make_fake_runner(tmp_path, num_blocks=num_blocks))
        ids = [harness.add([number] * 30, max_tokens=99, structured_output=DIGITS) for number in range(4)]
        harness.run()
        texts.append([text_of(harness, request_id) for request_id in ids])
    assert harness.scheduler.num_preemptions > 0
    assert texts[0] == texts[1]
    assert all(re.fullmatch("[0-9]{30}", text) for text in texts[0])


def test_a_resumed_answer_goes_on_inside_its_grammar(harness):
    request_id = harness.add([1, *b"0123456789"], num_resumed_tokens=10, max_tokens=99, structured_output=DIGITS)
    harness.run()
    assert re.fullmatch("[0-9]{20}", text_of(harness, request_id))


def test_a_resumed_answer_that_does_not_follow_its_grammar_fails_alone(harness):
    wrong = harness.add([1, *b"abc"], num_resumed_tokens=3, max_tokens=99, structured_output=DIGITS)
    other = harness.add([2], max_tokens=99, structured_output=DIGITS)
    harness.run()
    assert harness.finished[wrong].error_code == "grammar_error"
    assert re.fullmatch("[0-9]{30}", text_of(harness, other))


def test_a_grammar_that_exceeds_a_limit_on_the_way_ends_its_own_request_only(harness):
    texts = {}
    for is_alone in (True, False):
        worn = None if is_alone else harness.add([3], max_tokens=400, min_tokens=400, structured_output=WEARING)
        ids = [harness.add([number], max_tokens=100, ignore_eos=False) for number in range(4)]
        ids.append(harness.add([9], max_tokens=100, structured_output=DIGITS))
        harness.run()
        texts[is_alone] = [harness.token_ids[request_id] for request_id in ids]
    assert harness.finished[worn].error_code == "grammar_error"
    assert harness.finished[worn].num_output_tokens > 30
    assert texts[True] == texts[False]
    harness.check_idle()


def test_min_tokens_holds_back_eos_where_the_grammar_allows_more(harness):
    letters = StructuredOutput(GrammarKind.REGEX, "[a-z]*")
    request_id = harness.add([1], max_tokens=99, min_tokens=40, ignore_eos=False, structured_output=letters)
    harness.run()
    assert harness.finished[request_id].num_output_tokens >= 40


def test_only_allowed_tokens_are_said(harness):
    request_id = harness.add([1], max_tokens=30, allowed_token_ids=(5, 6, 7))
    harness.run()
    assert set(harness.token_ids[request_id]) == {5, 6, 7}


def test_logprobs_have_the_shape_of_real_ones(harness):
    request_id = harness.add([5, 6, 7], max_tokens=4, num_logprobs=3, num_prompt_logprobs=2)
    harness.run()
    rows = harness.logprobs[request_id]
    assert harness.num_prompt_logprobs[request_id] == 2
    assert [len(token_ids) for _, token_ids, _ in rows] == [3, 3, 4, 4, 4, 4]
    assert [token_ids[0] for _, token_ids, _ in rows] == [6, 7, *harness.token_ids[request_id]]
    for rank, token_ids, values in rows:
        assert rank >= 1
        assert all(0 <= token_id < VOCAB_SIZE for token_id in token_ids)
        assert values[0] <= 0
        assert values[1:] == sorted(values[1:], reverse=True)


def test_logprobs_do_not_depend_on_the_history_of_a_request(harness):
    first = harness.add([5, 6, 7], max_tokens=8, num_logprobs=1)
    harness.run()
    emitted = harness.token_ids[first][:3]
    second = harness.add([5, 6, 7, *emitted], num_resumed_tokens=3, max_tokens=8, num_logprobs=1)
    harness.run()
    assert harness.logprobs[second] == harness.logprobs[first][3:]
