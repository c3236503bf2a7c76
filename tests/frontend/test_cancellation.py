"""Requests that somebody ends by their id: through another frontend, whole and streamed, and what their client sees."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest

from ipc.messages import CallMethod, CoreState
from tests.frontend.applications import Application, application
from tests.processes import CoreProcess, core_process

LONG: dict[str, Any] = {"model": "fake", "max_tokens": 3000, "ignore_eos": True}
QUESTION = [{"role": "user", "content": "x"}]
COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
Cancel = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreProcess]:
    settings = {"fake_step_ms": 10, "max_num_seqs": 4, "num_blocks": 512}
    with core_process(tmp_path_factory.mktemp("run"), **settings) as core:
        yield core


async def wait_for_load(served: Application, name: str, count: int) -> None:
    async with asyncio.timeout(10):
        while (await served.state.client.call(CallMethod.STATS))[name] != count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def ask_and_cancel(
    core: CoreProcess,
    path: str,
    body: dict[str, Any],
    names: list[str],
    *,
    num_running: int = 1,
    method: str = "POST",
    headers: dict[str, str] | None = None,
) -> tuple[httpx.Response, list[httpx.Response]]:
    """The answer at one frontend, and those to the cancelling of each name at another, once the request runs."""

    async def run() -> tuple[httpx.Response, list[httpx.Response]]:
        async with application(core.run_dir) as served, application(core.run_dir) as other:
            asking = asyncio.create_task(served.http.post(path, json=body, headers=headers))
            await wait_for_load(other, "num_running", num_running)
            await asyncio.sleep(0.1)  # a few tokens
            cancelled = [await cancel(other.http, name, method) for name in names]
            answer = await asking
            await wait_for_load(other, "num_running", 0)
            return answer, cancelled

    return asyncio.run(run())


async def cancel(http: httpx.AsyncClient, name: str, method: str = "POST", **options: Any) -> httpx.Response:
    path = f"/v1/requests/{name}"
    return await (http.delete(path, **options) if method == "DELETE" else http.post(f"{path}/cancel", **options))


def events_of(answer: httpx.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_whole_answer_ends_where_it_is(core: CoreProcess, method: str):
    body = {**LONG, "prompt": "a", "request_id": "mine"}
    answer, (cancelled,) = ask_and_cancel(core, COMPLETION, body, ["cmpl-mine"], method=method)
    assert (cancelled.status_code, cancelled.json()) == (
        200,
        {"id": "cmpl-mine", "object": "request.cancellation", "num_cancelled": 1},
    )
    body = answer.json()
    assert (answer.status_code, body["id"], body["choices"][0]["finish_reason"]) == (200, "cmpl-mine", "abort")
    assert 0 < body["usage"]["completion_tokens"] < 3000
    assert len(body["choices"][0]["text"]) == body["usage"]["completion_tokens"]


def test_a_stream_ends_in_order(core: CoreProcess):
    options = {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True}
    body = {**LONG, "messages": QUESTION, "request_id": "s", **options}
    answer, _ = ask_and_cancel(core, CHAT, body, ["chatcmpl-s"])
    *chunks, usage, done = events_of(answer)
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert done == "[DONE]"
    assert choices[-1]["finish_reason"] == "abort"
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    assert len(text) == json.loads(usage)["usage"]["completion_tokens"] > 0


def test_all_answers_of_a_body_end(core: CoreProcess):
    body = {**LONG, "prompt": ["a", "b"], "n": 2, "best_of": 2, "request_id": "n"}
    answer, (cancelled,) = ask_and_cancel(core, COMPLETION, body, ["cmpl-n"], num_running=4)
    assert cancelled.json()["num_cancelled"] == 4
    assert [choice["finish_reason"] for choice in answer.json()["choices"]] == ["abort"] * 4


def test_the_request_id_of_the_header_names_it_too_and_only_once(core: CoreProcess):
    headers = {"x-request-id": "trace-7"}
    body = {**LONG, "prompt": "a"}
    answer, (first, again) = ask_and_cancel(core, COMPLETION, body, ["trace-7", "trace-7"], headers=headers)
    assert answer.headers["x-request-id"] == "trace-7"
    assert (first.status_code, again.status_code) == (200, 404)
    assert again.json()["error"]["code"] == "request_not_found"


@pytest.mark.parametrize(("path", "prefix"), [("/v1/responses", "resp_"), (CHAT, "chatcmpl-")])
def test_an_id_that_a_stream_has_told_names_it(core: CoreProcess, path: str, prefix: str):
    given = {"input": "x"} if path == "/v1/responses" else {"messages": QUESTION, "ignore_eos": True}

    async def run() -> tuple[str, str, httpx.Response]:
        async with application(core.run_dir) as served, application(core.run_dir) as other:
            told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            text = ""

            async def send(message: Any) -> None:
                nonlocal text
                text += message.get("body", b"").decode()
                if '"id":"' + prefix in text and not told.done():
                    told.set_result(prefix + text.partition('"id":"' + prefix)[2].partition('"')[0])

            body = json.dumps({"model": "fake", "stream": True, **given}).encode()
            messages = [{"type": "http.request", "body": body, "more_body": False}]

            async def receive() -> Any:
                return messages.pop() if messages else await asyncio.Future()

            headers = [(b"content-type", b"application/json")]
            scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
            serving = asyncio.create_task(served.app(scope, receive, send))
            async with asyncio.timeout(10):
                name = await told
                cancelled = await cancel(other.http, name)
                await serving
            return name, text, cancelled

    name, text, cancelled = asyncio.run(run())
    assert (cancelled.status_code, cancelled.json()["id"]) == (200, name)
    assert ('"status":"cancelled"' if path == "/v1/responses" else '"finish_reason":"abort"') in text


def test_two_requests_with_one_name_both_end(core: CoreProcess):
    async def run() -> tuple[httpx.Response, list[httpx.Response]]:
        async with application(core.run_dir) as served, application(core.run_dir) as other:
            headers, body = {"x-request-id": "shared"}, {**LONG, "prompt": "a"}
            asking = [
                asyncio.create_task(at.http.post(COMPLETION, json=body, headers=headers)) for at in (served, other)
            ]
            await wait_for_load(served, "num_running", 2)
            return await cancel(served.http, "shared"), await asyncio.gather(*asking)

    cancelled, answers = asyncio.run(run())
    assert cancelled.json()["num_cancelled"] == 2
    assert [answer.json()["choices"][0]["finish_reason"] for answer in answers] == ["abort"] * 2


def test_a_request_that_waits_ends_with_nothing(core: CoreProcess):
    async def run() -> tuple[httpx.Response, httpx.Response]:
        async with application(core.run_dir) as served:
            full = asyncio.create_task(
                served.http.post(COMPLETION, json={**LONG, "prompt": "a", "n": 4}, headers={"x-request-id": "full"})
            )
            await wait_for_load(served, "num_running", 4)
            body = {**LONG, "prompt": "b", "request_id": "w"}
            waiting = asyncio.create_task(served.http.post(COMPLETION, json=body))
            await wait_for_load(served, "num_waiting", 1)
            cancelled = await cancel(served.http, "cmpl-w")
            answer = await waiting
            await cancel(served.http, "full")
            await full
            return cancelled, answer

    cancelled, answer = asyncio.run(run())
    assert cancelled.json()["num_cancelled"] == 1
    assert (answer.json()["choices"][0]["text"], answer.json()["usage"]["completion_tokens"]) == ("", 0)


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/embeddings", {"input": [str(number) for number in range(400)], "request_id": "e"}, "embd-e"),
        ("/v1/score", {"text_1": "a", "text_2": [str(number) for number in range(400)], "request_id": "s"}, "score-s"),
        ("/v1/rerank", {"query": "a", "documents": [str(number) for number in range(400)]}, "whole"),
        ("/v1/messages", {"messages": QUESTION, "max_tokens": 1500}, "whole"),
    ],
)
def test_what_has_no_partial_answer_fails(path: str, body: dict[str, Any], name: str, tmp_path: Any):
    async def run(core: CoreProcess) -> tuple[httpx.Response, httpx.Response]:
        async with application(core.run_dir) as served, application(core.run_dir) as other:
            asked = {"model": "fake", **body}
            asking = asyncio.create_task(served.http.post(path, json=asked, headers={"x-request-id": "whole"}))
            async with asyncio.timeout(10):
                while not other.state.client.load.num_running:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            return await cancel(other.http, name), await asking

    with core_process(tmp_path, fake_step_ms=40, max_num_seqs=4) as core:
        cancelled, answer = asyncio.run(run(core))
    assert cancelled.status_code in (200, 404)  # 404: just then none of its texts was in the core; it ends all the same
    assert (answer.status_code, answer.json()["error"]["code"]) == (499, "request_cancelled")


@pytest.mark.parametrize(
    ("path", "body", "end"),
    [
        (COMPLETION, {"prompt": ["a"] * 500, "max_tokens": 3000}, (200, "abort")),
        ("/v1/embeddings", {"input": [str(number) for number in range(2000)]}, (499, "request_cancelled")),
    ],
)
def test_what_is_not_in_the_engine_yet_ends_when_it_gets_there(core: CoreProcess, path: str, body: Any, end: Any):
    async def run() -> list[httpx.Response]:
        async with application(core.run_dir) as served, application(core.run_dir) as other:
            asked = {"model": "fake", **body, "unknown": " " * 200_000}
            async with served.state.large_body_slot:  # until then the body is not read
                asking = asyncio.create_task(served.http.post(path, json=asked, headers={"x-request-id": "early"}))
                async with asyncio.timeout(10):
                    while not served.state.large_body_slot._waiters:  # noqa: ASYNC110
                        await asyncio.sleep(0)
                early = await cancel(other.http, "early")
            answer = await asking
            again = await served.http.post(
                COMPLETION, json={"model": "fake", "prompt": "a"}, headers={"x-request-id": "early"}
            )
            return [early, answer, again]

    early, answer, again = asyncio.run(run())
    assert early.status_code == 404
    body = answer.json()
    reason = body["error"]["code"] if "error" in body else body["choices"][-1]["finish_reason"]
    assert (answer.status_code, reason) == end
    assert again.json()["choices"][0]["finish_reason"] in ("stop", "length")


def test_an_echo_whose_scores_are_not_known_yet_fails(tmp_path: Any):
    async def run(core: CoreProcess) -> httpx.Response:
        async with application(core.run_dir) as served:
            body = {**LONG, "prompt": "a" * 1000, "echo": True, "logprobs": 1, "max_tokens": 50}
            asking = asyncio.create_task(served.http.post(COMPLETION, json=body, headers={"x-request-id": "echo"}))
            await wait_for_load(served, "num_running", 1)
            await cancel(served.http, "echo")
            return await asking

    with core_process(tmp_path, fake_step_ms=100, max_num_batched_tokens=64) as core:
        answer = asyncio.run(run(core))
    assert (answer.status_code, answer.json()["error"]["code"]) == (499, "request_cancelled")


@pytest.mark.parametrize("name", ["none", "chatcmpl-none", "resp_none", "a" * 300, "%00", "%F0%9F%98%80", "a b"])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_an_id_of_nothing_is_not_found(core: CoreProcess, name: str, method: str):
    async def run() -> httpx.Response:
        async with application(core.run_dir) as served:
            return await cancel(served.http, name, method)

    answer = asyncio.run(run())
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "request_not_found")


@pytest.mark.parametrize(("key", "status"), [("one", 200), ("two", 404), ("admin", 200)])
def test_a_key_ends_only_its_own_requests(core: CoreProcess, key: str, status: int):
    async def run() -> httpx.Response:
        settings = {"api_key": ("one", "two"), "admin_api_key": ("admin",)}
        async with application(core.run_dir, **settings) as served, application(core.run_dir, **settings) as other:
            headers = {"x-request-id": "owned", "x-api-key": "one"}
            asking = asyncio.create_task(served.http.post(COMPLETION, json={**LONG, "prompt": "a"}, headers=headers))
            await wait_for_load(other, "num_running", 1)
            answer = await cancel(other.http, "owned", headers={"x-api-key": key})
            await cancel(other.http, "owned", headers={"x-api-key": "one"})
            assert (await asking).json()["choices"][0]["finish_reason"] == "abort"
            return answer

    assert asyncio.run(run()).status_code == status


def test_what_runs_can_be_cancelled_while_the_core_drains(tmp_path: Any):
    async def run(core: CoreProcess) -> list[httpx.Response]:
        async with application(core.run_dir) as served, application(core.run_dir) as other:
            body = {**LONG, "prompt": "a", "max_tokens": 1500}
            asking = asyncio.create_task(served.http.post(COMPLETION, json=body, headers={"x-request-id": "last"}))
            await wait_for_load(other, "num_running", 1)
            core.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                while other.state.client.state is not CoreState.DRAINING:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            return [await cancel(other.http, "last"), await asking]

    with core_process(tmp_path, fake_step_ms=10) as core:
        cancelled, answer = asyncio.run(run(core))
    assert (cancelled.status_code, answer.json()["choices"][0]["finish_reason"]) == (200, "abort")


def test_without_a_core_there_is_nothing_to_cancel(tmp_path: Any):
    async def run() -> httpx.Response:
        with core_process(tmp_path) as core:
            async with application(core.run_dir) as served:
                core.kill()
                async with asyncio.timeout(10):
                    while served.state.client.state is not None:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                return await cancel(served.http, "x")

    assert asyncio.run(run()).status_code == 503
