"""/tokenize and /detokenize: right, and bounded."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from frontend.openai.inputs import MAX_TOKEN_IDS
from frontend.openai.tokenization import MAX_RUNNING, MAX_TEXT_BYTES, MAX_WAITING
from tests.frontend.applications import Application, application
from tests.processes import CoreProcess, core_process


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreProcess]:
    with core_process(tmp_path_factory.mktemp("run")) as core:
        yield core


def post(core: CoreProcess, path: str, body: dict[str, object]) -> httpx.Response:
    async def run() -> httpx.Response:
        async with application(core.run_dir) as served:
            return await served.http.post(path, json=body)

    return asyncio.run(run())


@pytest.mark.parametrize("prompt", ["", "abc é", "abc" * 5000])
def test_what_was_tokenized_can_be_detokenized(core: CoreProcess, prompt: str):
    ids = post(core, "/tokenize", {"prompt": prompt}).json()["tokens"]
    assert post(core, "/detokenize", {"tokens": ids}).json() == {"prompt": prompt}


def test_tokens_are_spelled_out_if_asked_for(core: CoreProcess):
    answer = post(core, "/tokenize", {"prompt": "ab" * 6000, "return_token_strs": True}).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert "".join(answer["token_strs"]) == "ab" * 6000


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {"prompt": "a" * (MAX_TEXT_BYTES + 1)}, "prompt"),
        ("/tokenize", {"prompt": "é" * (MAX_TEXT_BYTES // 2 + 1)}, "prompt"),
        ("/tokenize", {"messages": [{"role": "user", "content": "a" * MAX_TEXT_BYTES}]}, "messages"),
        ("/detokenize", {"tokens": [1] * (MAX_TOKEN_IDS + 1)}, "tokens"),
        ("/detokenize", {"tokens": [1, "a"] * 40_000}, "tokens"),
        ("/detokenize", {"tokens": [10**9] * 20_000}, "tokens"),
    ],
)
def test_too_much_is_refused(core: CoreProcess, path: str, body: dict[str, object], param: str):
    answer = post(core, path, body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_too_many_at_a_time_are_told_to_come_back(core: CoreProcess, path: str):
    body = {"prompt": "abc" * 5_000} if path == "/tokenize" else {"tokens": [65] * 20_000}

    async def ask(served: Application) -> httpx.Response:
        return await served.http.post(path, json=body)

    async def run() -> None:
        async with application(core.run_dir) as served:
            answers = await asyncio.gather(*(ask(served) for _ in range(MAX_RUNNING + MAX_WAITING + 20)))
            refused = [answer for answer in answers if answer.status_code != 200]
            assert 0 < len(refused) <= 20
            assert {(answer.status_code, answer.json()["error"]["code"]) for answer in refused} == {(429, "rate_limit")}
            assert all("retry-after" in answer.headers for answer in refused)
            assert (await ask(served)).status_code == 200

    asyncio.run(run())
