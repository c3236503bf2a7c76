"""Streams of Messages, put together again as Anthropic's client does."""

import json

from hypothesis import given
from hypothesis import strategies as st

from frontend.anthropic_api.events import MessageEvents
from frontend.anthropic_api.message import message_id_of, whole_message
from frontend.errors import error_body
from ipc.errors import RequestTimeoutError
from tests.chat_answers import ID, USAGE, ChatAnswer, chat_answers

START_USAGE = {"prompt_tokens": 7, "completion_tokens": 0}


def stream(answer: ChatAnswer, size: int = 3):
    events = MessageEvents(message_id_of(ID), "fake")
    stream = events.start(START_USAGE)
    for choice in answer.choices(size):
        stream += events.choice(choice)
    return stream + events.finish(USAGE, {})


def assembled(events):
    """The Message that the events make."""
    message, partial_json = {}, ""
    for event in events:
        match event["type"]:
            case "message_start":
                message = event["message"] | {"content": []}
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append(dict(event["content_block"]))
                partial_json = ""
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "input_json_delta":
                        partial_json += delta["partial_json"]
                        block["input"] = None
            case "content_block_stop":
                if message["content"][event["index"]].get("input", {}) is None:
                    message["content"][event["index"]]["input"] = json.loads(partial_json)
            case "message_delta":
                message |= event["delta"] | {"usage": event["usage"]}
    return message


def test_a_text_in_order():
    assert stream(ChatAnswer("Paris")) == [
        {
            "type": "message_start",
            "message": {
                "id": "msg_0123",
                "type": "message",
                "role": "assistant",
                "model": "fake",
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": {
                    "input_tokens": 7,
                    "cache_creation_input_tokens": 0,
                    "cache_read_input_tokens": 0,
                    "output_tokens": 0,
                    "output_tokens_details": {"thinking_tokens": 0},
                    "service_tier": "standard",
                },
            },
        },
        {"type": "ping"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "", "citations": None}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Par"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "is"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {
                "input_tokens": 3,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 4,
                "output_tokens": 5,
                "output_tokens_details": {"thinking_tokens": 2},
                "service_tier": "standard",
            },
        },
        {"type": "message_stop"},
    ]


def test_the_use_of_a_tool_begins_with_its_name():
    events = stream(ChatAnswer(calls=[("f", '{"a": 1}')], finish_reason="tool_calls"))
    assert events[2]["content_block"] == {"type": "tool_use", "id": "call_0", "name": "f", "input": {}}
    assert events[3]["delta"] == {"type": "input_json_delta", "partial_json": '{"a'}


def test_a_stop_sequence_is_told():
    events = stream(ChatAnswer("a", stop_reason="END"))
    assert events[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "END"}


@given(answer=chat_answers(), size=st.integers(1, 5))
def test_a_stream_makes_the_whole_message(answer, size):
    assert assembled(stream(answer, size)) == whole_message(answer.whole())


@given(answer=chat_answers(), size=st.integers(1, 5))
def test_every_block_that_starts_stops_before_the_next(answer, size):
    events = [event for event in stream(answer, size) if event["type"].endswith(("_start", "_stop"))]
    blocks = events[1:-1]
    assert [event["type"] for event in blocks] == ["content_block_start", "content_block_stop"] * (len(blocks) // 2)
    assert [event["index"] for event in blocks] == [number // 2 for number in range(len(blocks))]


def test_a_failure_is_an_error_event():
    events = MessageEvents(message_id_of(ID), "fake")
    (failed,) = events.fail(error_body(RequestTimeoutError("It took too long.")))
    assert (failed["type"], failed["error"]["type"]) == ("error", "timeout_error")
