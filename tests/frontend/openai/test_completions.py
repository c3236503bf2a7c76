"""Text completions: echo, suffix, best_of, several answers."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from frontend.generation import Answer
from frontend.openai.completions import mean_logprob
from tests.frontend.applications import application
from tests.processes import CoreProcess, core_process


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreProcess]:
    with core_process(tmp_path_factory.mktemp("run")) as core:
        yield core


def post(core: CoreProcess, **fields: Any) -> httpx.Response:
    async def run() -> httpx.Response:
        async with application(core.run_dir) as served:
            return await served.http.post("/v1/completions", json={"model": "fake", **fields})

    return asyncio.run(run())


def choices(core: CoreProcess, **fields: Any) -> list[dict[str, Any]]:
    answer = post(core, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"]


@pytest.mark.parametrize(
    ("prompt", "echoed"), [("ab é", "ab é"), ([97, 98], "ab"), ([[97], [98]], "ab"), ([0xC3], "\ufffd")]
)
def test_an_echoed_prompt_comes_first(core: CoreProcess, prompt: object, echoed: str):
    plain = choices(core, prompt=prompt, max_tokens=3, temperature=0)
    found = choices(core, prompt=prompt, max_tokens=3, temperature=0, echo=True)
    assert "".join(choice["text"][:-3] for choice in found) == echoed
    assert [choice["text"][-3:] for choice in found] == [choice["text"] for choice in plain]


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_a_prompt_can_be_scored(core: CoreProcess, max_tokens: int):
    """What lm-eval's local-completions sends."""
    answer = post(
        core, prompt=[[97, 98, 99], [100, 101]], max_tokens=max_tokens, temperature=0, logprobs=1, echo=True, seed=1
    )
    first, second = answer.json()["choices"]
    for choice, ids in ((first, "abc"), (second, "de")):
        logprobs = choice["logprobs"]
        assert logprobs["tokens"][: len(ids)] == list(ids)
        assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
        assert logprobs["text_offset"] == list(range(len(ids) + max_tokens))
        scored = zip(logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:], strict=True)
        assert all(logprob == max(best.values()) for logprob, best in scored)  # each is the best one of the fake model
        assert {len(values) for values in logprobs.values()} == {len(ids) + max_tokens}
    assert answer.json()["usage"]["completion_tokens"] == 2 * max_tokens


def test_a_score_does_not_depend_on_what_is_generated(core: CoreProcess):
    fields = {"prompt": "abcd", "logprobs": 2, "echo": True}
    alone = choices(core, max_tokens=0, **fields)[0]["logprobs"]
    longer = choices(core, max_tokens=5, n=2, **fields)
    for choice in longer:
        assert {name: values[:4] for name, values in choice["logprobs"].items()} == alone


def test_no_tokens_at_all_is_an_empty_answer(core: CoreProcess):
    answer = post(core, prompt="ab", max_tokens=0)
    (choice,) = answer.json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "length")
    assert answer.json()["usage"]["completion_tokens"] == 0


def test_a_streamed_score_is_the_whole_one(core: CoreProcess):
    fields = {"prompt": ["ab", "cd"], "max_tokens": 0, "logprobs": 1, "echo": True}
    answer = post(core, stream=True, stream_options={"include_usage": True}, **fields)
    *lines, _ = answer.text.removesuffix("\n\n").split("\n\n")
    found = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert found[-1]["usage"]["completion_tokens"] == 0
    streamed = [choice for chunk in found for choice in chunk["choices"]]
    for choice in choices(core, **fields):
        own = [item for item in streamed if item["index"] == choice["index"]]
        assert "".join(item["text"] for item in own) == choice["text"]
        assert [item["logprobs"] for item in own if item["logprobs"]] == [choice["logprobs"]]


def test_best_of_returns_the_most_probable_answers(core: CoreProcess):
    fields = {"prompt": ["ab", "cd"], "max_tokens": 5, "seed": 3, "logprobs": 0, "ignore_eos": True}
    everything = choices(core, n=4, **fields)
    answer = post(core, n=2, best_of=4, **fields)
    found = answer.json()["choices"]
    for prompt in (0, 1):
        of_prompt = everything[4 * prompt : 4 * prompt + 4]
        ranked = sorted(of_prompt, key=lambda item: sum(item["logprobs"]["token_logprobs"]), reverse=True)
        assert [item["text"] for item in found[2 * prompt : 2 * prompt + 2]] == [item["text"] for item in ranked[:2]]
    assert [choice["index"] for choice in found] == [0, 1, 2, 3]
    assert answer.json()["usage"]["completion_tokens"] == 40


def test_ranking_alone_shows_no_logprobs(core: CoreProcess):
    (choice,) = choices(core, prompt="ab", max_tokens=2, best_of=3)
    assert choice["logprobs"] is None


def test_an_answer_without_tokens_ranks_last():
    assert mean_logprob(Answer(0, 1)) == -9999.0


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"n": 3, "best_of": 2}, "best_of", "invalid_value"),
        ({"best_of": 2, "stream": True}, "best_of", "invalid_value"),
        ({"best_of": 129}, "best_of", "invalid_value"),
        ({"prompt": ["a"] * 9, "best_of": 128}, "best_of", "invalid_value"),
        ({"suffix": "b"}, "suffix", "unsupported_parameter"),
        ({"suffix": "b", "echo": True}, "echo", "invalid_value"),
        ({"suffix": 5}, "suffix", "invalid_type"),
        ({"echo": 1}, "echo", "invalid_type"),
        ({"max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"max_tokens": 0, "min_tokens": 1}, "min_tokens", "invalid_value"),
        ({"max_completion_tokens": 5}, "max_completion_tokens", "unsupported_parameter"),
        ({"top_logprobs": 2}, "top_logprobs", "unsupported_parameter"),
    ],
)
def test_what_contradicts_itself_is_refused(core: CoreProcess, fields: dict[str, Any], param: str, code: str):
    error = post(core, **{"prompt": "a", **fields}).json()["error"]
    assert (error["status"], error["param"], error["code"]) == (400, param, code)
