"""Streams of Responses, read with the types of OpenAI's client."""

from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from frontend.errors import error_body
from frontend.request_body import validate_body
from frontend.responses_api.events import ResponseEvents
from frontend.responses_api.protocol import ResponsesRequest
from frontend.responses_api.response import response_base, whole_response
from ipc.errors import RequestFailedError
from tests.chat_answers import ID, USAGE, ChatAnswer, chat_answers

BODY = validate_body(ResponsesRequest, {"model": "fake", "input": "hi"})
EVENT = TypeAdapter(ResponseStreamEvent)


def base():
    return response_base(BODY, {"id": ID, "created": 1000})


def stream(answer: ChatAnswer, size: int = 3):
    events = ResponseEvents(base(), lambda: 1005.5)
    stream = events.start(USAGE)
    for choice in answer.choices(size):
        stream += events.choice(choice)
    return stream + events.finish(USAGE, {})


def test_a_cancelled_answer_ends_as_incomplete_with_the_status_cancelled():
    last = EVENT.validate_python(stream(ChatAnswer("Par", finish_reason="abort"))[-1], strict=True)
    assert (last.type, last.response.status) == ("response.incomplete", "cancelled")


def test_a_text_in_order():
    events = [EVENT.validate_python(event, strict=True) for event in stream(ChatAnswer("Paris"))]
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert events[6].text == "Paris"
    assert events[0].response.status == "in_progress"


def test_reasoning_and_a_call_in_order():
    events = [event["type"] for event in stream(ChatAnswer(reasoning="Hm.", calls=[("f", "{}")]))]
    assert events[2:-1] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ]


@given(answer=chat_answers(), size=st.integers(1, 5))
def test_a_stream_ends_in_the_whole_response(answer, size):
    events = stream(answer, size)
    assert events[-1]["response"] == whole_response(base(), answer.whole(), 1005)
    assert events[-1]["type"] == "response." + events[-1]["response"]["status"]


@given(answer=chat_answers(), size=st.integers(1, 5))
def test_every_stream_is_one_for_the_client(answer, size):
    events = stream(answer, size)
    for event in events:
        EVENT.validate_python(event, strict=True)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    added = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    done = [event["output_index"] for event in events if event["type"] == "response.output_item.done"]
    assert added == done == list(range(len(added)))


@given(answer=chat_answers(), size=st.integers(1, 5))
def test_deltas_are_the_text(answer, size):
    events = stream(answer, size)
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == answer.text


def test_log_probabilities_wait_for_the_text_of_their_tokens():
    events = ResponseEvents(base(), lambda: 1005.5)
    halves = [
        {"token": token, "logprob": -1.0, "bytes": [byte], "top_logprobs": []}
        for token, byte in (("a", 195), ("b", 169))
    ]
    for half, text in zip(halves, ("", "é"), strict=True):
        stream = events.choice({"delta": {"content": text}, "logprobs": {"content": [half]}})
    assert stream[-1]["logprobs"] == halves


def test_a_failure_is_the_last_event_and_keeps_what_was_done():
    events = ResponseEvents(base(), lambda: 1005.5)
    for choice in ChatAnswer(calls=[("f", "{}"), ("g", "{}")]).choices(2)[:4]:
        events.choice(choice)
    (failed,) = events.fail(error_body(RequestFailedError("x", code="nan_logits")))
    response = EVENT.validate_python(failed, strict=True).response
    assert (response.status, response.error.code, response.output[0].name) == ("failed", "server_error", "f")
