"""What is a request, and what is said about everything else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.batch.lines import BatchLine, WrongLine, parse_line

GOOD: dict[str, Any] = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}


def test_a_request():
    line = parse_line(json.dumps(GOOD).encode(), 7)
    assert line == BatchLine(7, "a", "/v1/completions", {"prompt": "x"})


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"custom_id": None}, "missing_required_parameter", "custom_id"),
        ({"custom_id": 5}, "invalid_custom_id", "custom_id"),
        ({"custom_id": ""}, "invalid_custom_id", "custom_id"),
        ({"custom_id": "x" * 513}, "invalid_custom_id", "custom_id"),
        ({"method": None}, "missing_required_parameter", "method"),
        ({"method": "GET"}, "invalid_method", "method"),
        ({"url": "/v1/nothing"}, "invalid_url", "url"),
        ({"url": ["/v1/completions"]}, "invalid_url", "url"),
        ({"body": None}, "missing_required_parameter", "body"),
        ({"body": []}, "invalid_body", "body"),
        ({"body": {"stream": True}}, "unsupported_parameter", "body.stream"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], code: str, param: str):
    line = parse_line(json.dumps({**GOOD, **fields}).encode(), 7)
    assert isinstance(line, WrongLine)
    assert (line.number, line.code, line.param) == (7, code, param)
    assert line.custom_id == (None if param == "custom_id" else "a")


@pytest.mark.parametrize("raw", [b"nonsense", b"[]", b'{"custom_id": "a"', b"\xff", b"[" * 10_000])
def test_what_is_no_object_is_said_to_be_none(raw: bytes):
    line = parse_line(raw, 1)
    assert isinstance(line, WrongLine)
    assert line.message.startswith("The line ")


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything(raw: bytes):
    assert parse_line(raw, 1).number == 1
