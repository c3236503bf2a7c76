"""The Responses and Messages APIs over HTTP: each field, and what chat completions refuse for them."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest

from tests.frontend.applications import application
from tests.processes import CoreProcess, core_process

RESPONSES, MESSAGES, COUNT = "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"
TURN = {"role": "user", "content": "x"}
BASES: dict[str, dict[str, Any]] = {
    RESPONSES: {"model": "fake", "input": "x", "max_output_tokens": 1},
    MESSAGES: {"model": "fake", "messages": [TURN], "max_tokens": 1},
    COUNT: {"model": "fake", "messages": [TURN]},
}
COMMON = ["temperature", "top_p", "top_k", "min_p", "seed", "priority", "timeout"]
FIELDS = [
    *((RESPONSES, name) for name in [*COMMON, "max_output_tokens", "top_logprobs", "max_tool_calls"]),
    *((MESSAGES, name) for name in [*COMMON, "max_tokens"]),
]
VALUES = ["NaN", "Infinity", "-1", str(2**63), "1e308", '"1"', "true", "[]", "{}"]
TAKEN = {
    (RESPONSES, "top_k"): ["-1"],
    (RESPONSES, "seed"): ["-1"],
    (RESPONSES, "priority"): ["-1"],
    (RESPONSES, "max_tool_calls"): [str(2**63)],
    (MESSAGES, "seed"): ["-1"],
    (MESSAGES, "priority"): ["-1"],
}
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
FORMATS = {
    RESPONSES: {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}},
    MESSAGES: {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
}
WRONG_FORMATS = json.loads(json.dumps(FORMATS).replace('"object"', '"no"'))


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreProcess]:
    with core_process(tmp_path_factory.mktemp("run"), fake_step_ms=1) as core:
        yield core


def post(core: CoreProcess, path: str, **fields: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        async with application(core.run_dir) as served:
            return await served.http.post(path, json=BASES[path] | fields)

    return asyncio.run(run())


def error_of(answer: httpx.Response) -> tuple[int, str | None, str]:
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["code"]


@pytest.mark.parametrize(("path", "name"), FIELDS)
def test_what_is_no_number_in_range_is_named(core: CoreProcess, path: str, name: str):
    async def run() -> None:
        async with application(core.run_dir) as served:
            for value in VALUES:
                body = json.dumps(BASES[path] | {name: "VALUE"}).replace('"VALUE"', value)
                answer = await served.http.post(path, content=body, headers={"content-type": "application/json"})
                if value in TAKEN.get((path, name), []):
                    assert answer.status_code == 200, (value, answer.text)
                    continue
                status, param, code = error_of(answer)
                assert status == 400, (value, answer.text)
                assert param == (None if value in ("NaN", "Infinity") else name), (value, answer.text)
                assert code in ("invalid_json", "invalid_type", "invalid_value"), value

    asyncio.run(run())


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
def test_an_answer_has_the_form_that_was_asked_for(core: CoreProcess, path: str):
    limit = "max_output_tokens" if path == RESPONSES else "max_tokens"
    answer = post(core, path, **FORMATS[path], **{limit: 60}).json()
    text = answer["output"][0]["content"][0]["text"] if path == RESPONSES else answer["content"][0]["text"]
    jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (RESPONSES, WRONG_FORMATS[RESPONSES], "text.format"),
        (RESPONSES, {"max_output_tokens": 10**6}, "input"),
        (RESPONSES, {"temperature": 2.5}, "temperature"),
        (RESPONSES, {"stop": [""]}, "stop"),
        (RESPONSES, {"service_tier": "gold"}, "service_tier"),
        (MESSAGES, WRONG_FORMATS[MESSAGES], "output_config.format"),
        (MESSAGES, {"max_tokens": 10**6}, "messages"),
        (MESSAGES, {"top_p": 2}, "top_p"),
    ],
)
def test_what_chat_completions_refuse_has_our_name(core: CoreProcess, path: str, fields: dict[str, Any], param: str):
    assert error_of(post(core, path, **fields))[:2] == (400, param)


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES, COUNT])
def test_a_body_of_many_messages_is_translated(core: CoreProcess, path: str):
    name = "input" if path == RESPONSES else "messages"
    turns = [TURN, {"role": "assistant", "content": "y"}] * 2000
    answer = post(core, path, **{name: [*turns, TURN]})
    if path == COUNT:
        assert answer.json()["input_tokens"] > 4000
    else:
        assert error_of(answer) == (400, name, "context_length_exceeded")


def test_a_message_of_the_assistant_is_counted(core: CoreProcess):
    counts = [
        post(core, COUNT, messages=messages).json()["input_tokens"]
        for messages in ([TURN], [TURN, {"role": "assistant", "content": "yes"}, TURN])
    ]
    assert counts[1] > counts[0]


def test_the_tier_that_was_used_is_told(core: CoreProcess):
    assert post(core, RESPONSES, service_tier="flex").json()["service_tier"] == "flex"
    assert post(core, RESPONSES, service_tier="auto").json()["service_tier"] == "default"
    assert post(core, MESSAGES, service_tier="standard_only").json()["usage"]["service_tier"] == "standard"


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
def test_nobody_knows_a_model_of_another_name(core: CoreProcess, path: str):
    assert error_of(post(core, path, model="other")) == (404, "model", "model_not_found")


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_long_answer_with_log_probabilities_is_whole(core: CoreProcess, is_stream: bool):
    answer = post(core, RESPONSES, top_logprobs=1, max_output_tokens=1500, ignore_eos=True, stream=is_stream)
    last = json.loads(answer.text.rpartition("data: ")[2])["response"] if is_stream else answer.json()
    assert len(last["output"][0]["content"][0]["logprobs"]) == last["usage"]["output_tokens"] == 1500
