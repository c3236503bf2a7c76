"""A job in this process, on a core in another one: what comes out, what is waited for, and where it goes on."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from frontend.access import Caller
from frontend.batch.checkpoint import Checkpoint
from frontend.batch.job import BatchJob, JobFiles
from frontend.state import FrontendState
from ipc.client import EngineClient
from ipc.config import FrontendConfig
from ipc.endpoints import RunDir
from ipc.messages import CallMethod, ClientRole
from tests.processes import CoreProcess, core_process


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreProcess]:
    """Four at once, four may wait: less than a job wants to have in flight."""
    settings = {"fake_step_ms": 2, "max_num_seqs": 4, "max_queued_requests": 4, "num_blocks": 512}
    with core_process(tmp_path_factory.mktemp("run"), **settings) as core:
        yield core


def line(custom_id: str, url: str = "/v1/completions", **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "fake", **body}}


def completions(count: int, **body: Any) -> list[dict[str, Any]]:
    fields = {"max_tokens": 30, "ignore_eos": True, **body}
    return [line(f"id-{number}", prompt=f"prompt {number}", **fields) for number in range(count)]


def files_in(folder: Path, lines: list[dict[str, Any]]) -> JobFiles:
    (folder / "in.jsonl").write_text("".join(json.dumps(item) + "\n" for item in lines))
    return JobFiles(folder / "in.jsonl", folder / "out.jsonl", folder / "errors.jsonl")


async def with_state(run_dir: RunDir, use: Callable[[FrontendState], Awaitable[None]]) -> None:
    client = EngineClient(run_dir.core_socket, name="batch", role=ClientRole.BATCH)
    state = FrontendState(FrontendConfig(served_model_name=("fake",)), client, created_at=1)
    await state.start()
    try:
        await use(state)
    finally:
        await state.close()


def open_job(files: JobFiles, max_in_flight: int | None = None) -> BatchJob:
    return BatchJob(files, Caller("batch:1"), max_body_bytes=2**20, max_in_flight=max_in_flight)


def run_job(core: CoreProcess, files: JobFiles, max_in_flight: int | None = None) -> None:
    with open_job(files, max_in_flight) as job:
        asyncio.run(with_state(core.run_dir, job.run))


def results(path: Path) -> dict[str, Any]:
    """By custom_id, each of which is there once."""
    items = [json.loads(raw) for raw in path.read_text().splitlines()]
    found = {item["custom_id"]: item for item in items}
    assert len(found) == len(items)
    return found


def texts(path: Path) -> dict[str, str]:
    return {name: item["response"]["body"]["choices"][0]["text"] for name, item in results(path).items()}


def test_every_endpoint_answers_as_over_http(core: CoreProcess, tmp_path: Path):
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
    files = files_in(
        tmp_path,
        [
            line("chat", "/v1/chat/completions", **chat),
            line("completion", prompt="x"),
            line("embedding", "/v1/embeddings", input="x"),
            line("response", "/v1/responses", input="x", max_output_tokens=20),
            line("score", "/v1/score", text_1="x", text_2="y"),
            line("rerank", "/v1/rerank", query="x", documents=["y"]),
            line("wrong", "/v1/chat/completions"),
            line("other", "/v1/responses", input="x") | {"body": {"model": "other", "input": "x"}},
        ],
    )
    run_job(core, files)
    answers = results(files.output)
    assert {name: item["response"]["body"].get("object") for name, item in answers.items()} == {
        "chat": "chat.completion",
        "completion": "text_completion",
        "embedding": "list",
        "response": "response",
        "score": "list",
        "rerank": None,
    }
    assert all(item["response"]["status_code"] == 200 and item["error"] is None for item in answers.values())
    errors = results(files.errors)
    assert {name: item["response"]["status_code"] for name, item in errors.items()} == {"wrong": 400, "other": 404}
    assert errors["wrong"]["response"]["body"]["error"]["param"] == "messages"


def test_a_full_queue_is_waited_out(core: CoreProcess, tmp_path: Path):
    files = files_in(tmp_path, completions(60))
    run_job(core, files, max_in_flight=40)
    assert len(results(files.output)) == 60
    assert not files.errors.exists()


def test_what_can_never_have_room_is_refused(core: CoreProcess, tmp_path: Path):
    files = files_in(tmp_path, [line(name, prompt="x", n=9, max_tokens=2) for name in ("a", "b")] + completions(4))
    run_job(core, files)
    refused = results(files.errors)
    assert {name: item["response"]["status_code"] for name, item in refused.items()} == {"a": 429, "b": 429}
    assert len(results(files.output)) == 4


def test_a_job_that_is_stopped_goes_on_in_the_middle_of_its_answers(core: CoreProcess, tmp_path: Path):
    lines = completions(12, max_tokens=300, temperature=1.0, stop=["never"])
    for number, item in enumerate(lines):
        item["body"]["seed"] = number
    (tmp_path / "whole").mkdir()
    whole, files = files_in(tmp_path / "whole", lines), files_in(tmp_path, lines)
    run_job(core, whole, max_in_flight=4)

    async def stop_in_the_middle(state: FrontendState) -> None:
        with open_job(files, max_in_flight=4) as job:
            running = asyncio.create_task(job.run(state))
            while not any(len(item.token_ids) > 50 for item in Checkpoint(files.output).load().values()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def sampled_tokens(state: FrontendState) -> int:
        await state.client.wait_ready(10)
        return int((await state.client.call(CallMethod.STATS))["num_sampled_tokens"])

    async def go_on(state: FrontendState) -> None:
        before = await sampled_tokens(state)
        kept = sum(len(item.token_ids) for item in Checkpoint(files.output).load().values())
        num_done = len(results(files.output))
        with open_job(files, max_in_flight=4) as job:
            await job.run(state)
        assert await sampled_tokens(state) - before == (12 - num_done) * 300 - kept

    asyncio.run(with_state(core.run_dir, stop_in_the_middle))
    asyncio.run(with_state(core.run_dir, go_on))
    assert texts(files.output) == texts(whole.output)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["in.jsonl", "out.jsonl"]


def test_a_checkpoint_of_other_requests_changes_nothing(core: CoreProcess, tmp_path: Path):
    files = files_in(tmp_path, completions(3))
    run_job(core, files)
    expected = texts(files.output)
    files.output.unlink()
    damaged = files.output.with_name("out.jsonl.inflight")
    for content in (b"junk", b"", b"\x92\x01\x81\xa4id-0\x93\xc4\x01a\x01\xc4\x04\x01\x00\x00\x00"):
        damaged.write_bytes(content)
        run_job(core, files)
        assert texts(files.output) == expected
        files.output.unlink()
