"""Tool calls of SmolLM2 at temperature 1 are valid, streamed and whole; `scripts/check_tool_calls.py` makes more."""

import asyncio

import httpx
import openai
import pytest

from frontend.openai.answers import ChatCompletion
from scripts.check_tool_calls import body_of, check
from tests.servers import Server

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

NUMBERS = (1, 2, 3, 5, 6, 7)
"""Requests for one call each: an answer with many calls takes long."""


@pytest.fixture(scope="module")
def server(smollm2_dir, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("smollm2"), "smollm2-135m-instruct", "--dtype", "float32", "--threads", "1")
    yield server
    server.close()


def test_calls_that_must_come_are_valid_and_the_same_in_a_stream(server):
    async def run():
        async with httpx.AsyncClient(base_url=server.url, timeout=200) as http:
            return await asyncio.gather(*(check(http, number) for number in NUMBERS))

    verdicts = asyncio.run(run())
    assert [problem for verdict in verdicts for problem in verdict.problems] == []
    assert [verdict.reason for verdict in verdicts] == ["tool_calls"] * len(NUMBERS)
    assert not all(verdict.is_redrawn for verdict in verdicts)


def test_an_answer_with_a_call_has_the_documented_form(server):
    with server.http() as http:
        answer = http.post("/v1/chat/completions", json=body_of(5)).json()
    [choice] = ChatCompletion.model_validate(answer).choices
    assert choice.message.content is None
    assert choice.message.tool_calls[0].function.name == "clock"


def test_with_auto_the_model_may_answer_with_text(server):
    body = {**body_of(3), "tool_choice": "auto", "temperature": 0, "max_tokens": 20}
    with server.openai() as client:
        choice = client.chat.completions.create(**body).choices[0]
    assert choice.message.content
    assert not choice.message.tool_calls


@pytest.mark.parametrize(("choice", "strict"), [("required", False), ("auto", True)])
def test_a_schema_that_cannot_be_enforced_is_refused_by_name(server, choice, strict):
    function = {"name": "f", "strict": strict, "parameters": {"type": "object", "not": {"required": ["a"]}}}
    body = {**body_of(2), "tool_choice": choice}
    body["tools"] = [*body["tools"], {"type": "function", "function": function}]
    with server.openai() as client, pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(**body)
    assert raised.value.param == "tools.3.function.parameters"
    assert raised.value.code == "invalid_schema"


def test_without_strict_what_cannot_be_enforced_is_left_out(server):
    body = {**body_of(2), "tool_choice": "auto", "max_tokens": 1}
    body["tools"] = [{"type": "function", "function": {"name": "f", "parameters": {"not": {"required": ["a"]}}}}]
    with server.openai() as client:
        assert client.chat.completions.create(**body).choices[0].finish_reason == "length"
