"""The render endpoints: the prompt that the engine would get, with the checks of the endpoints themselves."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.frontend.applications import application
from tests.processes import CoreProcess, core_process

TOOL = {"type": "function", "function": {"name": "f"}}
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
USER = {"role": "user", "content": "hello"}
VARIABLES = "chat_template_kwargs"
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if loud %}!{% endif %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreProcess]:
    with core_process(tmp_path_factory.mktemp("run")) as core:
        yield core


@pytest.fixture(scope="module")
def template_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("template") / "chat.jinja"
    file.write_text(TEMPLATE)
    return file


@pytest.fixture
def post(core: CoreProcess, template_file: Path):
    def send(path: str, **body: Any) -> httpx.Response:
        async def run() -> httpx.Response:
            async with application(core.run_dir, chat_template=str(template_file)) as served:
                return await served.http.post(path, json={"model": "fake", **body})

        return asyncio.run(run())

    return send


def test_a_chat_is_shown_as_text_and_ids(post):
    answer = post(f"{CHAT}/render", messages=[USER], seed=7, stop="x").json()
    assert answer["prompt"] == "<user>hello</><assistant>"
    assert answer["token_ids"] == post("/v1/tokenize", messages=[USER]).json()["tokens"]
    assert answer["request_id"].startswith("chatcmpl-")
    assert (answer["model"], answer["stream"], answer["priority"], answer["cache_salt"]) == ("fake", False, 0, None)
    assert {"seed": 7, "stop": ["x"], "n": 1, "structured_output": None}.items() <= answer["sampling_params"].items()


def test_the_ids_are_those_that_the_answer_is_made_of(post):
    rendered = post(f"{CHAT}/render", messages=[USER]).json()["token_ids"]
    assert post(CHAT, messages=[USER], max_tokens=1, return_token_ids=True).json()["prompt_token_ids"] == rendered


def test_options_of_the_template_are_honoured_everywhere(post):
    conversation = [USER, {"role": "assistant", "content": "well"}]
    fields = {"messages": conversation, "continue_final_message": True, VARIABLES: {"loud": True}}
    rendered = post(f"{CHAT}/render", **fields).json()
    assert rendered["prompt"] == "<user>hello</><assistant>well"
    assert post("/tokenize", **fields).json()["tokens"] == rendered["token_ids"]
    answer = post(CHAT, **fields, max_tokens=1, return_token_ids=True).json()
    assert answer["prompt_token_ids"] == rendered["token_ids"]


def test_truncated_prompts_are_shown_as_they_are(post):
    answer = post(f"{CHAT}/render", messages=[USER], truncate_prompt_tokens=3).json()
    assert len(answer["token_ids"]) == 3
    assert "<user>hello</><assistant>".endswith(answer["prompt"])


def test_each_prompt_of_a_completion_is_shown_once(post):
    answers = post(f"{TEXT}/render", prompt=["ab", "c"], n=2).json()
    assert [answer["prompt"] for answer in answers] == ["ab", "c"]
    for answer in answers:
        assert answer["token_ids"] == post("/tokenize", prompt=answer["prompt"]).json()["tokens"]
    assert len({answer["request_id"] for answer in answers}) == 2


def test_token_ids_are_shown_with_their_text(post):
    ids = post("/tokenize", prompt="abc").json()["tokens"]
    (answer,) = post(f"{TEXT}/render", prompt=ids).json()
    assert (answer["prompt"], answer["token_ids"]) == ("abc", ids)


def test_tools_are_tokenized_with_the_conversation(post):
    tools = [{"type": "function", "function": {"name": "f"}}]
    answer = post("/v1/tokenize", messages=[USER], tools=tools, return_token_strs=True).json()
    assert '{"name":Ġ"f"}' in "".join(answer["token_strs"])
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        (CHAT, {"messages": [USER], "chat_template": "x"}, "unsupported_parameter", "chat_template"),
        (
            CHAT,
            {"messages": [USER], VARIABLES: {"chat_template": "x"}},
            "unsupported_parameter",
            f"{VARIABLES}.chat_template",
        ),
        (
            CHAT,
            {"messages": [USER], VARIABLES: {"quiet": 1}},
            "unsupported_parameter",
            f"{VARIABLES}.quiet",
        ),
        (CHAT, {"messages": [USER], "documents": [{"text": "x"}]}, "unsupported_parameter", "documents"),
        (CHAT, {"messages": [{"role": "function", "content": "x"}]}, "unsupported_parameter", "messages.0.role"),
        (CHAT, {"messages": [USER], "temperature": 9}, "invalid_value", "temperature"),
        (CHAT, {"messages": [USER], "model": "other"}, "model_not_found", "model"),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 1_000_000}]}, "context_length_exceeded", "messages"),
        (TEXT, {"prompt": "x" * 1_000_000}, "context_length_exceeded", "prompt"),
        (TEXT, {"prompt": "x", "continue_final_message": True}, "unsupported_parameter", "continue_final_message"),
    ],
)
def test_render_refuses_what_the_endpoint_refuses(post, path: str, body: dict[str, Any], code: str, param: str):
    for answer in (post(path, **body), post(f"{path}/render", **body)):
        assert answer.status_code in (400, 404)
        assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"messages": [USER], "chat_template": "x"}, "unsupported_parameter", "chat_template"),
        (
            {"messages": [USER], VARIABLES: {"tokenize": True}},
            "unsupported_parameter",
            f"{VARIABLES}.tokenize",
        ),
        ({"messages": [USER], "prompt": "x"}, "missing_required_parameter", "prompt"),
        ({}, "missing_required_parameter", "prompt"),
        ({"prompt": "x", "tools": []}, "invalid_value", "tools"),
        ({"messages": [USER], "tools": [5]}, "invalid_type", "tools.0"),
        ({"messages": [USER], "tools": [TOOL] * 129}, "invalid_value", "tools"),
    ],
)
def test_tokenize_refuses_what_it_cannot_honour(post, body: dict[str, Any], code: str, param: str):
    answer = post("/tokenize", **body)
    assert answer.status_code == 400
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)
