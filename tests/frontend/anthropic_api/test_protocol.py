import pytest

from frontend.anthropic_api.protocol import CountTokensRequest, MessagesRequest
from frontend.request_body import validate_body
from ipc.errors import InvalidRequestError

BODY = {"model": "fake", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


def test_null_counts_as_absent():
    body = validate_body(MessagesRequest, BODY | dict.fromkeys(MessagesRequest.model_fields.keys() - BODY.keys()))
    assert body == validate_body(MessagesRequest, BODY)


def test_tokens_are_counted_without_a_limit():
    body = validate_body(CountTokensRequest, {"model": "fake", "messages": BODY["messages"]})
    assert body.messages[0].role == "user"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages.0.content.0.type"),
        ({"temperature": 1.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
        ({"system": 5}, "system"),
        ({"tools": [{"input_schema": {}}]}, "tools.0.name"),
        ({"tool_choice": {"type": "required"}}, "tool_choice.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1}}, "thinking.budget_tokens"),
        ({"metadata": {"user_id": "x" * 257}}, "metadata.user_id"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"stream": 1}, "stream"),
    ],
)
def test_wrong_fields_are_named(fields, param):
    with pytest.raises(InvalidRequestError) as caught:
        validate_body(MessagesRequest, BODY | fields)
    assert caught.value.param == param
