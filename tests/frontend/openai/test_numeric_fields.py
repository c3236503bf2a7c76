"""Each numeric field with each kind of number that is none: 400 that names the field, or a 200 that is written here."""

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest

from tests.frontend.applications import application
from tests.processes import CoreProcess, core_process

CHAT = "/v1/chat/completions"
COMPLETION = "/v1/completions"
EMBEDDING, SCORE, RERANK = "/v1/embeddings", "/v1/score", "/v1/rerank"
BASES = {
    CHAT: {"model": "fake", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    COMPLETION: {"model": "fake", "prompt": "x", "max_tokens": 1},
    EMBEDDING: {"model": "fake", "input": "x"},
    SCORE: {"model": "fake", "text_1": "x", "text_2": "y"},
    RERANK: {"model": "fake", "query": "x", "documents": ["y"]},
}
COMMON = [
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "top_n_sigma",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "n",
    "prompt_logprobs",
    "truncate_prompt_tokens",
    "priority",
    "timeout",
]
POOLING = ["truncate_prompt_tokens", "priority", "timeout"]
FIELDS = [
    *((CHAT, name) for name in [*COMMON, "max_completion_tokens", "top_logprobs"]),
    *((COMPLETION, name) for name in [*COMMON, "logprobs", "best_of"]),
    *((path, name) for path in (EMBEDDING, SCORE, RERANK) for name in POOLING),
    (EMBEDDING, "dimensions"),
    (RERANK, "top_n"),
]
VALUES = ["NaN", "Infinity", "-1", str(2**63), "1e308", '"1"', "true", "[]", "{}"]
TAKEN = {
    "top_k": ["-1"],
    "seed": ["-1"],
    "frequency_penalty": ["-1"],
    "presence_penalty": ["-1"],
    "truncate_prompt_tokens": ["-1"],
    "priority": ["-1"],
}
"""What is in range, with the meaning that docs/api.md gives it."""


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreProcess]:
    with core_process(tmp_path_factory.mktemp("run")) as core:
        yield core


async def ask(http: httpx.AsyncClient, path: str, text: str) -> httpx.Response:
    return await http.post(path, content=text, headers={"content-type": "application/json"})


@pytest.mark.parametrize(("path", "name"), FIELDS)
def test_what_is_no_number_in_range_is_named(core: CoreProcess, path: str, name: str):
    async def run() -> None:
        async with application(core.run_dir) as served:
            for value in VALUES:
                base = {key: item for key, item in BASES[path].items() if key != name}
                text = json.dumps({**base, name: "VALUE"}).replace('"VALUE"', value)
                answer = await ask(served.http, path, text)
                if value in TAKEN.get(name, []):
                    assert answer.status_code == 200, (value, answer.text)
                    continue
                assert answer.status_code == 400, (value, answer.text)
                error = answer.json()["error"]
                expected = (None, "invalid_json") if value in ("NaN", "Infinity") else (name, error["code"])
                assert (error["param"], error["code"]) == expected, value
                assert error["code"] in ("invalid_json", "invalid_type", "invalid_value"), value

    asyncio.run(run())


@pytest.mark.parametrize("value", ["NaN", "inf", "-1", "0", "1e308", "abc", "", "86401"])
def test_the_timeout_header_is_a_number_in_range(core: CoreProcess, value: str):
    async def run() -> None:
        async with application(core.run_dir) as served:
            answer = await served.http.post(CHAT, json=BASES[CHAT], headers={"x-request-timeout": value})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Request-Timeout")

    asyncio.run(run())


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("place", ["key", "bias"])
def test_logit_bias_takes_ids_and_biases_only(core: CoreProcess, place: str, value: str):
    text = value.strip('"')
    pair = f"{json.dumps(text)}: 1" if place == "key" else f'"5": {value}'
    is_taken = (place, value) in {("key", '"1"'), ("bias", "-1")}

    async def run() -> None:
        async with application(core.run_dir) as served:
            body = json.dumps({**BASES[CHAT], "logit_bias": "VALUE"}).replace('"VALUE"', "{" + pair + "}")
            answer = await ask(served.http, CHAT, body)
            if is_taken:
                assert answer.status_code == 200, answer.text
            else:
                is_json = place == "key" or value not in ("NaN", "Infinity")
                assert answer.status_code == 400
                assert answer.json()["error"]["param"] == ("logit_bias" if is_json else None)

    asyncio.run(run())
