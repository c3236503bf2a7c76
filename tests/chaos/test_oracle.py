"""The oracle passes what is complete and exact or says that it is not, and nothing else."""

import json

import pytest

from tests.chaos.harness.answers import Answer, Choice, read_stream, read_whole
from tests.chaos.harness.exchange import Ending, Exchange
from tests.chaos.harness.oracle import Oracle, Outcome
from tests.chaos.harness.questions import Question

QUESTION = Question("a question", "/v1/completions", {})
REFERENCE = Answer({0: Choice("abc", ["a", "b", "c"], [-1.0, -2.0, -3.0], "length")}, (2, 3), True)
ORACLE = Oracle([QUESTION], {QUESTION: REFERENCE})
ERROR = {"error": {"message": "It broke.", "type": "server_error", "param": None, "code": "broken"}}
USAGE = {"prompt_tokens": 2, "completion_tokens": 3}
DONE = b"data: [DONE]\n\n"


def event(data):
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def chunk(text, finish_reason=None, logprob=None):
    logprobs = None if logprob is None else {"tokens": [text], "token_logprobs": [logprob]}
    return event(
        {"choices": [{"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}], "usage": None}
    )


CHUNKS = [chunk("a", logprob=-1.0), chunk("b", logprob=-2.0), chunk("c", logprob=-3.0), chunk("", "length")]
END = event({"choices": [], "usage": USAGE})


def outcome(body, *, ending=Ending.WHOLE, status=200, is_stream=True):
    content_type = "text/event-stream" if is_stream else "application/json"
    exchange = Exchange(0.0, status=status, headers={"content-type": content_type}, body=bytearray(body), ending=ending)
    return ORACLE.judge(QUESTION, exchange).outcome


def whole(text, finish_reason="length", usage=USAGE):
    logprobs = {"tokens": list(text), "token_logprobs": [-1.0, -2.0, -3.0][: len(text)]}
    choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


def test_a_stream_and_a_whole_answer_are_the_same_answer():
    assert read_stream(b"".join(CHUNKS) + END + DONE) == read_whole(whole("abc")) == REFERENCE


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"".join(CHUNKS) + END + DONE, Outcome.EXACT),
        (b"".join(CHUNKS[:2]) + event(ERROR), Outcome.FAILED),
        (event(ERROR), Outcome.FAILED),
        (b"".join(CHUNKS[:1] + CHUNKS[2:]) + END + DONE, Outcome.WRONG),
        (b"".join(CHUNKS[:2] + CHUNKS[3:]) + END + DONE, Outcome.WRONG),
        (b"".join(CHUNKS[:3]) + END + DONE, Outcome.WRONG),
        (b"".join(CHUNKS) + DONE, Outcome.WRONG),
        (b"".join(CHUNKS[1:2]) + event(ERROR), Outcome.WRONG),
        (chunk("a", logprob=-1.5) + event(ERROR), Outcome.WRONG),
        (b"".join(CHUNKS) + END, Outcome.WRONG),
        (b"".join(CHUNKS) + END + event(ERROR) + DONE, Outcome.WRONG),
        (b"".join(CHUNKS) + END + DONE + CHUNKS[0], Outcome.WRONG),
        (b"data: {\n\n" + DONE, Outcome.WRONG),
        (event({"error": {"message": "no code"}}), Outcome.WRONG),
    ],
    ids=[
        "complete", "failed", "failed at once", "a token is missing", "the last token is missing", "no finish reason",
        "no usage", "failed behind a gap", "another log-probability", "neither done nor failed", "done after an error",
        "more after the end", "no chunk", "no envelope",
    ],
)  # fmt: skip
def test_streams(body, expected):
    assert outcome(body) is expected


@pytest.mark.parametrize(
    ("ending", "expected"),
    [(Ending.CUT, Outcome.CUT), (Ending.CLOSED, Outcome.LOST), (Ending.HUNG, Outcome.HUNG)],
    ids=["left", "lost", "hung"],
)
def test_a_stream_without_an_end(ending, expected):
    assert outcome(b"".join(CHUNKS[:2]), ending=ending) is expected


def test_what_a_client_saw_before_it_left_must_be_right_too():
    assert outcome(CHUNKS[1], ending=Ending.CUT) is Outcome.WRONG


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (whole("abc"), 200, Outcome.EXACT),
        (whole("ab"), 200, Outcome.WRONG),
        (whole("abc", "stop"), 200, Outcome.WRONG),
        (whole("abc", usage={"prompt_tokens": 2, "completion_tokens": 2}), 200, Outcome.WRONG),
        (b"", 200, Outcome.WRONG),
        (json.dumps(ERROR).encode(), 503, Outcome.REFUSED),
        (b"Internal Server Error", 500, Outcome.WRONG),
    ],
    ids=["complete", "short", "another reason", "another usage", "empty", "refused", "no envelope"],
)
def test_whole_answers(body, status, expected):
    assert outcome(body, status=status, is_stream=False) is expected
