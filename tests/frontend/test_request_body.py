"""Bodies: strict JSON, and errors that name the field."""

import asyncio
import gc
import json
import time
import tracemalloc
from typing import Any

import pytest
from pydantic import BaseModel
from starlette.requests import Request
from starlette.types import Message

from frontend.json_depth import MAX_JSON_DEPTH
from frontend.openai.protocol import ChatCompletionRequest, CompletionRequest, EmbeddingRequest
from frontend.request_body import (
    INLINE_BODY_BYTES,
    MAX_FIELDS,
    MAX_JSON_NODES,
    ignored_params,
    ignored_params_header,
    parse_json_object,
    read_body,
    validate_body,
)
from ipc.errors import InvalidRequestError

MESSAGES = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[1]", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_strict_json_object_is_refused(raw: bytes):
    with pytest.raises(InvalidRequestError) as caught:
        parse_json_object(raw)
    assert caught.value.code == "invalid_json"


def nested(depth: int) -> bytes:
    """A body of this many levels."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_the_depth_of_a_body_is_limited():
    assert parse_json_object(nested(MAX_JSON_DEPTH))
    with pytest.raises(InvalidRequestError) as caught:
        parse_json_object(nested(MAX_JSON_DEPTH + 1))
    assert caught.value.code == "json_too_deep"


def test_of_a_key_that_is_there_twice_the_last_value_counts():
    assert parse_json_object(b'{"a": 1, "a": 2}') == {"a": 2}


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
    values = {"model": "m", "foo": 1, "bar": 2, "absent": None, "metadata": {}, "logprobs": None}
    names = ignored_params(values, ChatCompletionRequest)
    assert ignored_params_header(names) == {"x-ignored-params": "bar, foo"}


def test_the_report_of_ignored_fields_is_safe_in_a_header():
    values = {"a\r\nset-cookie: x": 1, "é": 1, "x" * 1000: 1, **{f"p{index}": 1 for index in range(1000)}}
    header = ignored_params_header(ignored_params(values, ChatCompletionRequest))["x-ignored-params"]
    assert header.isascii()
    assert header.isprintable()
    assert len(header) < 2000


def in_lists(item: str, num_bytes: int) -> bytes:
    """A JSON object with a list of so many items that it has about this length."""
    return ('{"model":"m","prompt":[1,' + ",".join([item] * (num_bytes // (len(item) + 1))) + "]}").encode()


@pytest.mark.parametrize("item", ['""', '"ab"', "[]", "{}", '{"":0}', "[[[]]]"])
def test_a_body_of_too_many_small_things_is_refused_before_they_are_made(item: str):
    raw = in_lists(item, 4 * 2**20 - 100)
    tracemalloc.start()
    with pytest.raises(InvalidRequestError, match="strings, arrays and objects"):
        parse_json_object(raw)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2**20


def test_quotes_and_brackets_inside_of_strings_do_not_count():
    text = '{["\\' * 100_000
    assert parse_json_object(json.dumps({"a": text}).encode()) == {"a": text}


@pytest.mark.parametrize("extra", [0, 1])
def test_the_limit_of_small_things_is_exact(extra: int):
    strings = ["\"'[{" * 5] * (MAX_JSON_NODES - 4 + extra)  # and two names, the object, the list
    raw = json.dumps({"a": strings, "b": 1}).encode()
    if extra:
        with pytest.raises(InvalidRequestError):
            parse_json_object(raw)
    else:
        assert parse_json_object(raw)["a"] == strings


def test_an_unfinished_string_of_escapes_is_refused_quickly():
    began_at = time.perf_counter()
    with pytest.raises(InvalidRequestError):
        parse_json_object(b'"' + b'\\"' * 2_000_000)
    assert time.perf_counter() - began_at < 2


def test_the_number_of_fields_is_limited():
    assert parse_json_object(json.dumps(dict.fromkeys(map(str, range(MAX_FIELDS)), 1)).encode())
    with pytest.raises(InvalidRequestError):
        parse_json_object(json.dumps(dict.fromkeys(map(str, range(MAX_FIELDS + 1)), 1)).encode())


@pytest.mark.parametrize("field", ["model", "prompt", "stop"])
@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\xed\xa0\x80"', b'["a", "\\udc00"]'])
def test_half_a_surrogate_pair_is_no_json(field: str, text: bytes):
    with pytest.raises(InvalidRequestError) as caught:
        parse_json_object(b'{"%b": %b}' % (field.encode(), text))
    assert caught.value.code == "invalid_json"


def read_beside_a_clock(raw: bytes, model: type[BaseModel]) -> tuple[BaseModel | InvalidRequestError, float]:
    """What becomes of a body, and the most work (seconds of this process) for which the event loop stood still."""

    async def receive() -> Message:
        return {"type": "http.request", "body": raw, "more_body": False}

    async def run() -> tuple[BaseModel | InvalidRequestError, float]:
        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        reading = asyncio.create_task(read_body(request, model, asyncio.Semaphore(1)))
        gc.freeze()  # as a server does: a collection of the tests' own objects is no work of the body
        longest, last = 0.0, time.process_time()
        while not reading.done():
            await asyncio.sleep(0.001)
            now = time.process_time()
            longest, last = max(longest, now - last), now
        gc.unfreeze()
        try:
            return (await reading)[0], longest
        except InvalidRequestError as error:
            return error, longest

    return asyncio.run(run())


MEBIBYTES_4 = 4 * 2**20 - 100
MESSAGE = '{"role":"user","content":""}'


@pytest.mark.parametrize(
    ("raw", "model"),
    [
        (in_lists('""', MEBIBYTES_4), CompletionRequest),
        (in_lists("300", MEBIBYTES_4 - 100_000), CompletionRequest),
        (in_lists("1", MEBIBYTES_4), EmbeddingRequest),
        (in_lists("1.5", MEBIBYTES_4), CompletionRequest),
        (('{"model":"m","messages":[' + ",".join([MESSAGE] * 140_000) + "]}").encode(), ChatCompletionRequest),
        (('{"model":"m","messages":[' + ",".join([MESSAGE] * 4096) + "]}").encode(), ChatCompletionRequest),
        (('{"model":"m","messages":[' + ",".join(['{"":""}'] * 30_000) + "]}").encode(), ChatCompletionRequest),
        (('{"model":"m","messages":[' + ",".join(["1"] * 40_000) + "]}").encode(), ChatCompletionRequest),
        (("{" + ",".join(f'"{index}":1' for index in range(400_000)) + "}").encode(), ChatCompletionRequest),
    ],
)
def test_no_body_holds_up_the_event_loop(raw: bytes, model: type[BaseModel]):
    read_beside_a_clock(b"{}", model)  # warm up
    _, longest_s = read_beside_a_clock(raw, model)
    assert longest_s < 0.5  # about 0.05 on a quiet machine; it was 12


def test_a_large_body_is_read_as_a_small_one():
    text = "x" * INLINE_BODY_BYTES
    body, _ = read_beside_a_clock(json.dumps({"model": "m", "prompt": text}).encode(), CompletionRequest)
    assert isinstance(body, CompletionRequest)
    assert body.prompt == text
    error, _ = read_beside_a_clock(json.dumps({"model": 5, "prompt": text}).encode(), CompletionRequest)
    assert isinstance(error, InvalidRequestError)
    assert error.param == "model"
