import pytest

from frontend.request_body import validate_body
from frontend.responses_api.protocol import ResponsesRequest
from ipc.errors import InvalidRequestError

BODY = {"model": "fake", "input": "hi"}


def test_null_counts_as_absent():
    body = validate_body(ResponsesRequest, BODY | dict.fromkeys(ResponsesRequest.model_fields.keys() - BODY.keys()))
    assert body == validate_body(ResponsesRequest, BODY)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": 5}]}, "input.0.content"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"max_output_tokens": "5"}, "max_output_tokens"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_logprobs": 1.5}, "top_logprobs"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"tools": [{}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}] * 129}, "tools"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a" * 65: "x"}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_wrong_fields_are_named(fields, param):
    with pytest.raises(InvalidRequestError) as caught:
        validate_body(ResponsesRequest, BODY | fields)
    assert caught.value.param == param
