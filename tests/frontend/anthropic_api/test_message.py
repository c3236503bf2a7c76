"""Whole chat completions as Message objects."""

import pytest

from frontend.anthropic_api.message import whole_message
from frontend.errors import RequestCancelledError
from ipc.errors import RequestFailedError
from tests.chat_answers import ChatAnswer


def message_of(*args, **fields):
    return whole_message(ChatAnswer(*args, **fields).whole())


def test_a_text():
    assert message_of("Paris") == {
        "id": "msg_0123",
        "type": "message",
        "role": "assistant",
        "model": "fake",
        "content": [{"type": "text", "text": "Paris", "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
            "output_tokens_details": {"thinking_tokens": 2},
            "service_tier": "standard",
        },
    }


def test_all_kinds_of_blocks_in_order():
    message = message_of("Let me see.", "Hm.", [("f", '{"a": 1}'), ("g", "")], "tool_calls")
    assert message["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "Let me see.", "citations": None},
        {"type": "tool_use", "id": "call_0", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "call_1", "name": "g", "input": {}},
    ]
    assert message["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("finish_reason", "stop_reason", "expected"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", 7, ("end_turn", None)),
        ("stop", "END", ("stop_sequence", "END")),
        ("length", None, ("max_tokens", None)),
        ("tool_calls", None, ("tool_use", None)),
    ],
)
def test_reasons_to_stop(finish_reason, stop_reason, expected):
    message = message_of("a", finish_reason=finish_reason, stop_reason=stop_reason)
    assert (message["stop_reason"], message["stop_sequence"]) == expected


@pytest.mark.parametrize("calls", [[], [("f", '{"a')]])
def test_a_cancelled_answer_is_an_error(calls):
    with pytest.raises(RequestCancelledError):
        message_of("a", None, calls, "abort")


def test_an_empty_answer_has_no_blocks():
    assert message_of()["content"] == []


def test_the_use_of_a_tool_that_was_cut_off_is_left_out():
    message = message_of("a", calls=[("f", '{"a": ')], finish_reason="length")
    assert [block["type"] for block in message["content"]] == ["text"]


@pytest.mark.parametrize("arguments", ['{"a": ', "[]", "5"])
def test_input_that_cannot_be_read_is_an_error(arguments):
    with pytest.raises(RequestFailedError):
        message_of(calls=[("f", arguments)], finish_reason="tool_calls")
