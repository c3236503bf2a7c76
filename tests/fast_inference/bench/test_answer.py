"""Streams are read the same however they arrive, and what is not a whole answer is a failure."""

import json
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_inference.bench.answer import read_answer, read_events
from fast_inference.bench.connection import Exchange, Failure
from tests.scripted_server import completion_events, event

PAYLOADS = st.binary(max_size=20).filter(lambda data: not set(data) & set(b"\r\n"))


def exchange(*pieces: bytes, status: int = 200) -> Exchange:
    """Sent at 0; the pieces arrive at 1, 2, …"""
    ends, body = array("q"), bytearray()
    for piece in pieces:
        body += piece
        ends.append(len(body))
    return Exchange(0.0, status, body, ends, array("d", range(1, len(pieces) + 1)))


def completion(text: str, finish_reason: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "text": text, "finish_reason": finish_reason}], "usage": None})


def chat(**delta: object) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta}]})


DONE = event(b"[DONE]")


def split(data, body: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=8)))
    return [body[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]


@given(st.lists(PAYLOADS, max_size=6), st.sampled_from([b"\n", b"\r\n", b"\r"]), st.binary(max_size=5))
def test_events_are_found_with_any_line_ends_and_beside_comments(payloads, line_end, comment):
    comment = comment.replace(b"\r", b"").replace(b"\n", b"")
    body = b"".join(
        b": " + comment + line_end + b"event: x" + line_end + b"data: " + data + line_end * 2 for data in payloads
    )
    assert [data for _, data in read_events(body)] == payloads


def test_the_lines_of_an_event_are_joined_and_an_unfinished_event_is_none():
    assert [data for _, data in read_events(b"data: a\ndata:b\n\ndata: c\n")] == [b"a\nb"]


@given(st.data(), st.integers(1, 6))
def test_a_stream_says_the_same_wherever_it_is_split(data, num_tokens):
    whole = read_answer(exchange(completion_events(num_tokens, prompt_tokens=5)))
    parts = split(data, completion_events(num_tokens, prompt_tokens=5))
    result = read_answer(exchange(*parts))
    assert result.failure is None
    assert (result.output_tokens, result.prompt_tokens) == (whole.output_tokens, whole.prompt_tokens) == (num_tokens, 5)
    assert len(result.chunk_times) == num_tokens
    ends = [end for end, _ in read_events(completion_events(num_tokens))][:num_tokens]
    lengths = [len(b"".join(parts[: count + 1])) for count in range(len(parts))]
    assert list(result.chunk_times) == [next(n for n, length in enumerate(lengths, 1) if length >= e) for e in ends]


def test_times_of_a_completion():
    result = read_answer(exchange(completion("a"), completion("b"), completion("c"), completion("", "length"), DONE))
    assert (result.ttft_s, result.itl_s, result.e2el_s) == (1.0, [1.0, 1.0], 4.0)
    assert (result.output_tokens, result.has_usage, result.tpot_s) == (3, False, 1.5)


def test_the_first_token_of_a_chat_is_not_its_role():
    result = read_answer(exchange(chat(role="assistant", content=""), chat(content="a"), chat(), DONE))
    assert (result.ttft_s, result.e2el_s) == (2.0, 3.0)


def test_reasoning_is_text_too():
    assert (
        read_answer(exchange(chat(role="assistant"), chat(reasoning_content="a"), chat(content="b"), DONE)).ttft_s
        == 2.0
    )


def test_an_answer_whose_tokens_have_no_text_ends_with_its_first_token():
    usage = event({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    result = read_answer(exchange(completion("", "length"), usage, DONE))
    assert (result.failure, result.ttft_s, result.output_tokens, result.tpot_s) == (None, 1.0, 1, None)


def test_tokens_are_counted_by_the_server_where_a_chunk_has_several():
    usage = {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
    result = read_answer(exchange(completion("abc"), completion("de"), event({"choices": [], "usage": usage}), DONE))
    assert (result.prompt_tokens, result.cached_tokens, result.output_tokens, result.tpot_s) == (7, 4, 5, 0.25)


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([completion("a")], "stream without [DONE]"),
        (
            [completion("a"), event({"error": {"message": "m", "code": "step_failed"}})],
            "error in the stream step_failed",
        ),
        ([DONE], "stream without an answer"),
        ([b"data: {\n\n", DONE], "not a stream of completions"),
        ([event([]), DONE], "not a stream of completions"),
        ([event({"choices": [7]}), DONE], "not a stream of completions"),
    ],
)
def test_what_is_not_a_whole_answer_is_a_failure(pieces, reason):
    failure = read_answer(exchange(*pieces)).failure
    assert failure is not None
    assert failure.reason == reason


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ({"error": {"message": "busy", "code": "queue_full"}}, Failure("HTTP 429 queue_full", "busy")),
        ({"error": {"message": "busy", "code": 429, "type": "overloaded"}}, Failure("HTTP 429 overloaded", "busy")),
        ({"error": "busy"}, Failure("HTTP 429", "busy")),
        ({"detail": "busy"}, Failure("HTTP 429", "busy")),
    ],
)
def test_refusals_of_all_servers_have_a_reason_and_a_message(body, failure):
    assert read_answer(exchange(json.dumps(body).encode(), status=429)).failure == failure


def test_a_refusal_that_is_no_json_is_shown_in_one_short_line():
    failure = read_answer(exchange(b"<html>\n" + b"x" * 1000, status=502)).failure
    assert failure is not None
    assert failure.reason == "HTTP 502"
    assert failure.detail.startswith("<html> xxx")
    assert len(failure.detail) < 200
