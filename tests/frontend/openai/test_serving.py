"""Refusals of requests with several answers, over HTTP and on a core with few places."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from starlette.types import Message

from frontend.openai.keep_alive import PING
from ipc.messages import CallMethod
from tests.frontend.applications import Application, application
from tests.processes import CoreProcess, core_process


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreProcess]:
    """Runs 2 requests at once and lets 2 wait."""
    settings = {"fake_step_ms": 1, "max_num_seqs": 2, "max_queued_requests": 2}
    with core_process(tmp_path_factory.mktemp("run"), **settings) as core:
        yield core


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("request_size", [{"n": 100}, {"prompt": ["a"] * 100}, {"prompt": ["a"] * 50, "n": 2}])
@pytest.mark.parametrize("is_foreseen", [True, False])
def test_a_refusal_of_any_answer_is_the_status_of_all(
    core: CoreProcess, monkeypatch: pytest.MonkeyPatch, request_size: dict[str, object], stream: bool, is_foreseen: bool
):
    async def run() -> None:
        async with application(core.run_dir) as served:
            if not is_foreseen:  # as when the published load is too old
                monkeypatch.setattr(served.state, "check_admission", lambda num_requests=1: None)
            body = {"model": "fake", "prompt": "a", "max_tokens": 500, "ignore_eos": True, "stream": stream}
            answer = await served.http.post("/v1/completions", json={**body, **request_size})
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
            assert "retry-after" in answer.headers
            async with asyncio.timeout(5):
                while (await served.state.client.call(CallMethod.STATS))["num_running"]:  # noqa: ASYNC110  no event
                    await asyncio.sleep(0.02)

    asyncio.run(run())


def test_a_stream_of_more_answers_than_run_at_once_comes_whole(core: CoreProcess):
    async def run() -> None:
        async with application(core.run_dir) as served:
            body = {"model": "fake", "prompt": ["a", "b", "c"], "max_tokens": 4, "ignore_eos": True, "stream": True}
            answer = await served.http.post("/v1/completions", json=body)
            lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
            assert lines[-1] == "[DONE]"
            choices = [choice for line in lines[:-1] for choice in json.loads(line)["choices"]]
            assert sorted(choice["index"] for choice in choices if choice["finish_reason"]) == [0, 1, 2]

    asyncio.run(run())


def test_arguments_of_any_depth_are_harmless(core: CoreProcess):
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "[" * 1_500}}
    messages = [{"role": "assistant", "tool_calls": [call]}, {"role": "user", "content": "x"}]

    async def run() -> None:
        async with application(core.run_dir) as served:
            body = {"model": "fake", "messages": messages, "max_tokens": 2}
            answer = await served.http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200

    asyncio.run(run())


def test_more_answers_than_a_body_may_ask_for_are_no_matter_of_load(core: CoreProcess):
    async def run() -> None:
        async with application(core.run_dir) as served:
            body = {"model": "fake", "prompt": ["a"] * 9, "n": 128}
            answer = await served.http.post("/v1/completions", json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")

    asyncio.run(run())


LONG = {"model": "fake", "prompt": "a", "max_tokens": 400, "ignore_eos": True}


async def messages_of(served: Application, body: dict[str, object]) -> list[Message]:
    """What the application sends, in order, for one POST to /v1/completions."""
    sent: list[Message] = []
    raw = [json.dumps(body).encode()]

    async def receive() -> Message:
        if raw:
            return {"type": "http.request", "body": raw.pop(), "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError("never")

    async def send(message: Message) -> None:
        sent.append(message)

    path = "/v1/completions"
    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": headers}
    await served.app({**scope, "query_string": b"", "client": ("x", 1), "server": ("x", 1)}, receive, send)
    return sent


async def occupy(served: Application) -> list[asyncio.Task[object]]:
    """Requests that take all places of the core; they run when this returns."""
    requests = [asyncio.create_task(served.http.post("/v1/completions", json=LONG)) for _ in range(2)]
    async with asyncio.timeout(10):
        while served.state.client.load.num_running < 2:  # noqa: ASYNC110  the core publishes it
            await asyncio.sleep(0.01)
    return requests


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_that_waits_has_its_status_and_comments_meanwhile(core: CoreProcess, n: int):
    async def run() -> None:
        async with application(core.run_dir, sse_ping_interval=0.05) as served:
            before = await occupy(served)
            sent = await messages_of(served, {**LONG, "max_tokens": 3, "stream": True, "n": n})
            bodies = [message["body"] for message in sent[1:]]
            assert sent[0]["status"] == 200
            assert bodies[0] == PING
            events = b"".join(bodies).replace(PING, b"")
            assert events.endswith(b"data: [DONE]\n\n")
            assert events.count(b'"finish_reason":"length"') == n
            await asyncio.gather(*before)

    asyncio.run(run())


@pytest.mark.parametrize("fields", [{}, {"n": 2}, {"prompt": "several tokens", "echo": True, "logprobs": 1}])
def test_what_a_stream_says_does_not_depend_on_when_it_began(core: CoreProcess, fields: dict[str, object]):
    async def said(served: Application) -> list[object]:
        """Text and tokens of each answer."""
        sent = await messages_of(served, {**LONG, "max_tokens": 30, "stream": True, "seed": 5, **fields})
        lines = b"".join(message.get("body", b"") for message in sent).replace(PING, b"").split(b"\n\n")
        assert lines[-2:] == [b"data: [DONE]", b""]
        answers: dict[int, tuple[list[str], list[object]]] = {}
        for choice in (json.loads(line[6:])["choices"][0] for line in lines[:-2]):
            texts, tokens = answers.setdefault(choice["index"], ([], []))
            texts.append(choice["text"])
            if choice["logprobs"]:
                tokens += zip(choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"], strict=True)
        return [("".join(texts), tokens) for _, (texts, tokens) in sorted(answers.items())]

    async def run() -> None:
        async with application(core.run_dir, sse_ping_interval=0) as served:
            plain = await said(served)
        async with application(core.run_dir, sse_ping_interval=0.05) as served:
            before = await occupy(served)
            assert await said(served) == plain
            await asyncio.gather(*before)

    asyncio.run(run())


def test_unknown_fields_are_refused_where_that_was_asked_for(core: CoreProcess):
    async def run() -> None:
        async with application(core.run_dir, strict_params=True) as served:
            body = {"model": "fake", "prompt": "a", "max_tokens": 1}
            assert (await served.http.post("/v1/completions", json={**body, "metadata": {}})).status_code == 200
            for extra, param in (({"x": 1}, "x"), ({"stream": True, "stream_options": {"y": 1}}, "stream_options.y")):
                error = (await served.http.post("/v1/completions", json={**body, **extra})).json()["error"]
                assert (error["status"], error["code"], error["param"]) == (400, "unknown_parameter", param)

    asyncio.run(run())
