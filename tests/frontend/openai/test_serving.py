"""Refusals of requests with several answers, over HTTP and on a core with few places."""

import asyncio
import json
from collections.abc import Iterator

import pytest

from ipc.messages import CallMethod
from tests.frontend.applications import application
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
                monkeypatch.setattr(served.state, "check_admission", lambda model, num_requests: None)
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
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "[" * 100_000}}
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
