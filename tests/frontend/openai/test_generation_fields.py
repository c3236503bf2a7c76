"""Fields of chat and text completions over HTTP: what they do, and what is refused."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.frontend.applications import application
from tests.processes import CoreProcess, core_process

CHAT = "/v1/chat/completions"
COMPLETION = "/v1/completions"
MESSAGES = [{"role": "user", "content": "x"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
UNENFORCEABLE = {**SCHEMA, "not": {"required": ["b"]}}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreProcess]:
    with core_process(tmp_path_factory.mktemp("run"), fake_step_ms=1) as core:
        yield core


def post(core: CoreProcess, path: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    body = {"model": "fake", "max_tokens": 8, **fields}
    if path == CHAT:
        body.setdefault("messages", MESSAGES)
    else:
        body.setdefault("prompt", "x")

    async def run() -> httpx.Response:
        async with application(core.run_dir) as served:
            return await served.http.post(path, json=body, headers=headers)

    return asyncio.run(run())


def choices(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"]


def chunks(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    *lines, done = answer.text.removesuffix("\n\n").split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def error(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()["error"]
    return answer.status_code, body["param"], body["code"]


def schema_format(schema: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **fields}}


# --- the distribution ---


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("repetition_penalty", 0),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"258": 1}),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"01": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"5": True}),
        ("logit_bias", [[5, 1]]),
        ("logit_bias", {str(i): 1 for i in range(5000)}),
        ("allowed_token_ids", []),
        ("allowed_token_ids", [258]),
        ("allowed_token_ids", [-1]),
        ("bad_words", "a"),
        ("bad_words", [""]),
        ("bad_words", ["  "]),
        ("bad_words", ["a" * 257]),
        ("bad_words", ["é" * 40]),
        ("bad_words", ["a"] * 513),
        ("prompt_logprobs", 21),
        ("truncate_prompt_tokens", 0),
        ("truncate_prompt_tokens", -2),
        ("truncate_prompt_tokens", 5000),
        ("service_tier", "gold"),
        ("timeout", 0),
        ("timeout", 100_000),
        ("request_id", "a b"),
        ("request_id", ""),
        ("metadata", {"a": 1}),
        ("metadata", {str(i): "" for i in range(17)}),
        ("metadata", {"a" * 65: ""}),
        ("metadata", {"a": "b" * 513}),
        ("user", "a" * 513),
        ("stream_options", {"include_usage": True}),
        ("min_tokens", 9),
        ("n", 129),
    ],
)
def test_out_of_range_is_400_and_named(core: CoreProcess, path: str, name: str, value: object):
    status, param, code = error(post(core, path, **{name: value}))
    assert (status, param) == (400, name)
    assert code in ("invalid_value", "invalid_type")


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frequency_penalty", 2),
        ("presence_penalty", -2.0),
        ("repetition_penalty", 1.1),
        ("logit_bias", {"5": 100, "6": -100.0}),
        ("logit_bias", {}),
        ("bad_words", ["ab", " cd"]),
        ("user", "me"),
        ("metadata", {"a": "b"}),
        ("priority", -5),
        ("cache_salt", "s"),
        ("seed", -5),
        ("timeout", 30.5),
        ("truncate_prompt_tokens", 10),
    ],
)
def test_in_range_is_taken(core: CoreProcess, path: str, name: str, value: object):
    answer = post(core, path, **{name: value})
    assert choices(answer)
    assert "x-ignored-params" not in answer.headers


def test_only_allowed_tokens_are_sampled(core: CoreProcess):
    (choice,) = choices(post(core, COMPLETION, allowed_token_ids=[97, 98], min_tokens=8))
    assert set(choice["text"]) <= {"a", "b"}


# --- structured outputs ---


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": schema_format(SCHEMA)},
        {"response_format": schema_format(SCHEMA, strict=True)},
        {"response_format": schema_format(UNENFORCEABLE, strict=False)},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA)}},
    ],
)
def test_an_answer_follows_its_schema(core: CoreProcess, path: str, fields: dict[str, Any]):
    (choice,) = choices(post(core, path, max_tokens=200, **fields))
    answer = json.loads(choice["text"] if path == COMPLETION else choice["message"]["content"])
    assert list(answer) == ["a"]
    assert isinstance(answer["a"], int)


@pytest.mark.parametrize(
    ("fields", "is_right"),
    [
        ({"response_format": {"type": "text"}}, lambda text: True),
        ({"response_format": {"type": "json_object"}}, lambda text: isinstance(json.loads(text), dict)),
        ({"structured_outputs": {"json_object": True}}, lambda text: isinstance(json.loads(text), dict)),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, lambda text: text in ("yes", "no")),
        ({"structured_outputs": {"regex": "[ab]{3}"}}, lambda text: len(text) == 3 and set(text) <= set("ab")),
        ({"structured_outputs": {"grammar": 'start: "x" | "yy"'}}, lambda text: text in ("x", "yy")),
    ],
)
def test_an_answer_has_the_form_that_was_asked_for(core: CoreProcess, fields: dict[str, Any], is_right: Any):
    (choice,) = choices(post(core, CHAT, max_tokens=500, **fields))
    assert is_right(choice["message"]["content"])


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"response_format": schema_format(UNENFORCEABLE, strict=True)}, "response_format", "invalid_schema"),
        ({"response_format": schema_format({"type": "nothing"})}, "response_format", "invalid_schema"),
        ({"response_format": schema_format({"a": "b" * 70_000})}, "response_format", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"response_format": schema_format(SCHEMA, name="a b")}, "response_format.json_schema.name", "invalid_value"),
        ({"response_format": schema_format([])}, "response_format.json_schema.schema", "invalid_type"),
        ({"structured_outputs": {}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs", "invalid_schema"),
        ({"structured_outputs": {"json": "[]"}}, "structured_outputs", "invalid_schema"),
        ({"structured_outputs": {"json": UNENFORCEABLE}}, "structured_outputs", "invalid_schema"),
        ({"structured_outputs": {"regex": "(("}}, "structured_outputs", "invalid_grammar"),
        ({"structured_outputs": {"grammar": "start: nothing"}}, "structured_outputs", "invalid_grammar"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "invalid_value"),
        ({"structured_outputs": {"choice": [""]}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"choice": ["a"] * 1001}}, "structured_outputs.choice", "invalid_value"),
        (
            {"structured_outputs": {"regex": "a", "whitespace_pattern": "b"}},
            "structured_outputs.whitespace_pattern",
            "unsupported_parameter",
        ),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "structured_outputs",
            "invalid_value",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_grammar_is_400_and_named(
    core: CoreProcess, fields: dict[str, Any], param: str, code: str, stream: bool
):
    assert error(post(core, CHAT, stream=stream, **fields)) == (400, param, code)


# --- log-probabilities ---


def test_a_chat_has_one_entry_for_each_token(core: CoreProcess):
    answer = post(core, CHAT, logprobs=True, top_logprobs=2)
    (choice,) = choices(answer)
    entries = choice["logprobs"]["content"]
    assert len(entries) == answer.json()["usage"]["completion_tokens"] == 8
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == choice["message"]["content"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in entries)
    assert choice["logprobs"]["refusal"] is None


def test_nobody_gets_logprobs_without_asking(core: CoreProcess):
    assert choices(post(core, CHAT))[0]["logprobs"] is None
    assert choices(post(core, COMPLETION))[0]["logprobs"] is None


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"top_logprobs": 2}, "top_logprobs"),
        (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (CHAT, {"logprobs": 1}, "logprobs"),
        (COMPLETION, {"logprobs": 21}, "logprobs"),
        (COMPLETION, {"logprobs": True}, "logprobs"),
        (CHAT, {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ],
)
def test_wrong_logprobs_are_refused(core: CoreProcess, path: str, fields: dict[str, Any], param: str):
    assert error(post(core, path, **fields))[:2] == (400, param)


def test_the_logprobs_of_a_completion_point_into_its_text(core: CoreProcess):
    (choice,) = choices(post(core, COMPLETION, logprobs=1))
    logprobs = choice["logprobs"]
    assert logprobs["text_offset"] == list(range(8))
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert all(token in best for token, best in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True))


def test_tokens_can_be_spelled_as_ids(core: CoreProcess):
    fields = {"return_tokens_as_token_ids": True, "return_token_ids": True}
    (choice,) = choices(post(core, COMPLETION, logprobs=1, **fields))
    assert choice["logprobs"]["tokens"] == [f"token_id:{token_id}" for token_id in choice["token_ids"]]
    (choice,) = choices(post(core, CHAT, logprobs=True, **fields))
    assert [item["token"] for item in choice["logprobs"]["content"]] == [f"token_id:{i}" for i in choice["token_ids"]]


def test_prompt_logprobs_have_the_first_token_as_null(core: CoreProcess):
    (choice,) = choices(post(core, COMPLETION, prompt="abc", prompt_logprobs=1))
    first, *others = choice["prompt_logprobs"]
    assert first is None
    assert [entry[str(ord(char))]["decoded_token"] for entry, char in zip(others, "bc", strict=True)] == ["b", "c"]
    chat = post(core, CHAT, prompt_logprobs=0, return_token_ids=True).json()
    assert len(chat["prompt_logprobs"]) == len(chat["prompt_token_ids"]) == chat["usage"]["prompt_tokens"]


def test_token_ids_are_given_where_asked_for(core: CoreProcess):
    answer = post(core, CHAT, return_token_ids=True)
    (choice,) = choices(answer)
    assert bytes(choice["token_ids"]).decode() == choice["message"]["content"]
    assert len(answer.json()["prompt_token_ids"]) == answer.json()["usage"]["prompt_tokens"]
    first, *others = chunks(post(core, CHAT, return_token_ids=True, stream=True))
    assert first["prompt_token_ids"] == answer.json()["prompt_token_ids"]
    assert all("prompt_token_ids" not in chunk for chunk in others)


# --- the prompt ---


@pytest.mark.parametrize(("limit", "kept"), [(2, "ef"), (6, "abcdef"), (100, "abcdef"), (-1, "abcdef")])
def test_truncation_keeps_the_last_tokens(core: CoreProcess, limit: int, kept: str):
    answer = post(core, COMPLETION, prompt="abcdef", truncate_prompt_tokens=limit, echo=True)
    assert choices(answer)[0]["text"][: len(kept)] == kept
    assert answer.json()["usage"]["prompt_tokens"] == len(kept)


@pytest.mark.parametrize(
    ("path", "fields"),
    [(COMPLETION, {"prompt": "a" * 3000}), (CHAT, {"messages": [{"role": "user", "content": "a" * 3000}]})],
)
def test_truncation_makes_a_long_prompt_fit(core: CoreProcess, path: str, fields: dict[str, Any]):
    assert error(post(core, path, **fields))[2] == "context_length_exceeded"
    answer = post(core, path, truncate_prompt_tokens=-1, **fields)
    assert choices(answer)
    assert answer.json()["usage"]["total_tokens"] == 2048


def test_truncation_below_the_prompt_of_a_long_answer_is_still_an_answer(core: CoreProcess):
    answer = post(core, COMPLETION, prompt="abc", max_tokens=2047, truncate_prompt_tokens=-1, stop=["e"])
    assert answer.json()["usage"]["prompt_tokens"] == 1


# --- the service ---


@pytest.mark.parametrize(
    ("tier", "used"), [("auto", "default"), ("default", "default"), ("flex", "flex"), ("priority", "priority")]
)
def test_the_tier_that_was_used_is_named(core: CoreProcess, tier: str, used: str):
    assert post(core, CHAT, service_tier=tier).json()["service_tier"] == used
    assert all(chunk["service_tier"] == used for chunk in chunks(post(core, CHAT, service_tier=tier, stream=True)))
    assert "service_tier" not in post(core, CHAT).json()


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
def test_a_request_id_is_part_of_the_id(core: CoreProcess, path: str):
    assert post(core, path, request_id="my-1.2_3").json()["id"].endswith("-my-1.2_3")


@pytest.mark.parametrize(
    ("headers", "fields"), [({}, {"timeout": 0.001}), ({"x-request-timeout": "0.001"}, {"timeout": 60})]
)
def test_a_request_that_takes_too_long_is_504(core: CoreProcess, headers: dict[str, str], fields: dict[str, Any]):
    answer = post(core, CHAT, headers, max_tokens=900, ignore_eos=True, **fields)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")


def test_a_stream_that_takes_too_long_ends_in_an_error_event(core: CoreProcess):
    answer = post(core, CHAT, stream=True, max_tokens=1900, ignore_eos=True, timeout=0.3)
    assert answer.status_code == 200
    *_, last = answer.text.removesuffix("\n\n").split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
    assert "[DONE]" not in answer.text


def test_metadata_is_not_echoed(core: CoreProcess):
    assert "metadata" not in post(core, CHAT, metadata={"a": "b"}).json()
