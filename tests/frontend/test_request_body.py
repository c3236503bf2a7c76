"""Bodies: strict JSON, and errors that name the field."""

from typing import Any

import pytest

from frontend.openai.protocol import ChatCompletionRequest
from frontend.request_body import ignored_params_header, parse_json_object, validate_body
from ipc.errors import InvalidRequestError

MESSAGES = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[1]", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_strict_json_object_is_refused(raw: bytes):
    with pytest.raises(InvalidRequestError) as caught:
        parse_json_object(raw)
    assert caught.value.code == "invalid_json"


def test_nul_is_a_legal_character():
    assert parse_json_object(b'{"a": "\\u0000"}') == {"a": "\x00"}


@pytest.mark.parametrize(
    ("values", "param", "code"),
    [
        ({"messages": MESSAGES}, "model", "missing_required_parameter"),
        ({"model": None, "messages": MESSAGES}, "model", "missing_required_parameter"),
        ({"model": "m"}, "messages", "missing_required_parameter"),
        ({"model": "m", "messages": []}, "messages", "invalid_value"),
        ({"model": "m", "messages": "hi"}, "messages", "invalid_type"),
        ({"model": "m", "messages": [{"role": "user", "content": 5}]}, "messages.0.content", "invalid_type"),
        ({"model": "m", "messages": [{"role": "robot", "content": ""}]}, "messages.0.role", "invalid_value"),
        (
            {"model": "m", "messages": [{"role": "user", "content": [{"text": "x"}]}]},
            "messages.0.content.0.type",
            "missing_required_parameter",
        ),
        (
            {"model": "m", "messages": MESSAGES, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
            "invalid_type",
        ),
    ],
)
def test_the_wrong_field_is_named_by_its_path(values: dict[str, Any], param: str, code: str):
    with pytest.raises(InvalidRequestError) as caught:
        validate_body(ChatCompletionRequest, values)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_errors_do_not_repeat_values():
    with pytest.raises(InvalidRequestError) as caught:
        validate_body(ChatCompletionRequest, {"model": "m", "messages": MESSAGES, "temperature": "my-password"})
    assert "my-password" not in caught.value.message


def test_unknown_fields_are_reported():
    values = {"model": "m", "foo": 1, "bar": 2, "metadata": {}, "logprobs": None}
    assert ignored_params_header(values, ChatCompletionRequest) == {"x-ignored-params": "bar, foo"}


def test_the_report_of_ignored_fields_is_safe_in_a_header():
    values = {"a\r\nset-cookie: x": 1, "é": 1, "x" * 1000: 1, **{f"p{index}": 1 for index in range(1000)}}
    header = ignored_params_header(values, ChatCompletionRequest)["x-ignored-params"]
    assert header.isascii()
    assert header.isprintable()
    assert len(header) < 2000
