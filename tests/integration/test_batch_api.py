"""Files and batches with OpenAI's client on real processes: the round trip, and whatever dies or fills up meanwhile."""

import json
import os
import resource
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from tests.permissions import obey_permissions
from tests.servers import Server, is_running
from tests.waiting import wait_until

ENDPOINT = "/v1/completions"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("batch-api")
    server = start(folder)
    yield server
    server.close()


def start(folder: Path) -> Server:
    return Server(folder, "fake", "--fake-step-ms", "10", "--state-dir", str(folder / "state"))


@pytest.fixture
def api(server: Server) -> Iterator[openai.OpenAI]:
    with server.openai() as api:
        yield api


def lines(num: int, **body: Any) -> list[dict[str, Any]]:
    values = {"model": "fake", "max_tokens": 5, **body}
    return [
        {"custom_id": f"line-{n}", "method": "POST", "url": ENDPOINT, "body": {**values, "prompt": f"{n} times"}}
        for n in range(num)
    ]


def begin(api: openai.OpenAI, requests: list[dict[str, Any]]) -> Batch:
    content = "\n".join(map(json.dumps, requests)).encode()
    file = api.files.create(file=("requests.jsonl", content), purpose="batch")
    assert file.bytes == len(content)
    return api.batches.create(
        input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata={"for": "a test"}
    )


def is_at(api: openai.OpenAI, batch: Batch, *, num_completed: int) -> bool:
    now = api.batches.retrieve(batch.id)
    return now.status == "in_progress" and now.request_counts.completed >= num_completed


def ended(api: openai.OpenAI, batch: Batch) -> Batch:
    wait_until(lambda: api.batches.retrieve(batch.id).status in ("completed", "failed", "cancelled"), 40)
    return api.batches.retrieve(batch.id)


def results(api: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    values = [json.loads(line) for line in api.files.content(file_id).text.splitlines()]
    assert set(Counter(value["custom_id"] for value in values).values()) <= {1}
    return {value["custom_id"]: value for value in values}


def texts(api: openai.OpenAI, batch: Batch) -> dict[str, str]:
    found = results(api, batch.output_file_id)
    return {custom_id: value["response"]["body"]["choices"][0]["text"] for custom_id, value in found.items()}


def test_the_round_trip(server, api):
    wrong = {**lines(1)[0], "custom_id": "wrong"}
    wrong["body"] = {**wrong["body"], "model": "another"}
    batch = ended(api, begin(api, [*lines(30), wrong]))
    assert (batch.status, batch.model, batch.metadata) == ("completed", "fake", {"for": "a test"})
    assert batch.request_counts.model_dump() == {"total": 31, "completed": 30, "failed": 1}
    assert batch in api.batches.list(limit=5).data
    answers = texts(api, batch)
    for request in lines(2):
        online = api.completions.create(**request["body"])
        assert answers[request["custom_id"]] == online.choices[0].text
    (failure,) = results(api, batch.error_file_id).values()
    assert failure["custom_id"] == "wrong"
    assert failure["error"] is None
    assert failure["response"]["status_code"] == 404
    error = failure["response"]["body"]["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert batch.usage.output_tokens > 0
    assert {batch.input_file_id, batch.output_file_id, batch.error_file_id} <= {file.id for file in api.files.list()}
    assert api.files.delete(batch.output_file_id).deleted
    with pytest.raises(openai.NotFoundError):
        api.files.content(batch.output_file_id)


def test_wrong_lines_fail_the_batch_and_are_named(api):
    requests = lines(3)
    requests[1]["custom_id"] = "line-0"
    batch = ended(api, begin(api, requests))
    assert (batch.status, batch.output_file_id) == ("failed", None)
    (error,) = batch.errors.data
    assert (error.line, error.code, error.param) == (2, "duplicate_custom_id", "custom_id")


def test_a_cancelled_batch_leaves_the_core_to_others(server, api):
    batch = begin(api, lines(200, max_tokens=1000, ignore_eos=True))
    wait_until(lambda: api.batches.retrieve(batch.id).status == "in_progress")
    assert api.batches.cancel(batch.id).status == "cancelling"
    cancelled = ended(api, batch)
    assert cancelled.status == "cancelled"
    assert cancelled.request_counts.completed < 200
    with server.http() as http:
        wait_until(lambda: http.get("/load").json()["num_requests_running"] == 0)


def test_a_full_disk_pauses_the_batch_with_a_reason_and_nothing_else(server, api):
    """The disk is full for the runner alone, beyond 512 KiB in any file; the database is smaller."""
    batch = begin(api, lines(300, max_tokens=40, ignore_eos=True, logprobs=5))
    wait_until(lambda: is_at(api, batch, num_completed=0))
    runner = server.status["batch_runner"]["pid"]
    unlimited = resource.prlimit(runner, resource.RLIMIT_FSIZE)
    resource.prlimit(runner, resource.RLIMIT_FSIZE, (512 * 1024, unlimited[1]))
    wait_until(lambda: api.batches.retrieve(batch.id).errors)
    paused = api.batches.retrieve(batch.id)
    assert paused.status == "in_progress"
    assert paused.request_counts.completed < 300
    assert [error.code for error in paused.errors.data] == ["disk_full"]
    assert api.completions.create(model="fake", prompt="online", max_tokens=3).choices
    resource.prlimit(runner, resource.RLIMIT_FSIZE, unlimited)
    complete = ended(api, batch)
    assert (complete.status, complete.errors) == ("completed", None)
    assert len(texts(api, complete)) == 300
    assert server.status["batch_runner"]["pid"] == runner


class ObeyingServer(Server):
    preexec_fn = staticmethod(obey_permissions)


def test_a_folder_that_cannot_be_written_pauses_the_batch_with_a_reason(tmp_path):
    state = tmp_path / "state"
    server = ObeyingServer(tmp_path, "fake", "--fake-step-ms", "10", "--frontends", "1", "--state-dir", str(state))
    try:
        with server.openai() as api:
            batch = begin(api, lines(60, max_tokens=80, ignore_eos=True))
            wait_until(lambda: is_at(api, batch, num_completed=0))
            [folder] = (state / "jobs").iterdir()
            folder.chmod(0o555)
            wait_until(lambda: api.batches.retrieve(batch.id).errors)
            assert api.batches.retrieve(batch.id).status == "in_progress"
            assert api.completions.create(model="fake", prompt="online", max_tokens=3).choices
            folder.chmod(0o755)
            complete = ended(api, batch)
            assert (complete.status, complete.errors) == ("completed", None)
            assert len(texts(api, complete)) == 60
    finally:
        server.close()


def test_whatever_is_killed_the_batch_goes_on_and_is_exact(tmp_path):
    """First the runner, then the core, then the launcher, and with it everything; a server told to stop stops."""
    requests = lines(240, max_tokens=50, ignore_eos=True)
    server = start(tmp_path)
    try:
        with server.openai() as api:
            batch = begin(api, requests)
            wait_until(lambda: is_at(api, batch, num_completed=20), 20)
            runner = server.status["batch_runner"]["pid"]
            os.kill(runner, signal.SIGKILL)
            wait_until(lambda: server.status["batch_runner"]["pid"] not in (None, runner))
            wait_until(lambda: is_at(api, batch, num_completed=60), 20)
            os.kill(server.core_pid, signal.SIGKILL)
            wait_until(lambda: is_at(api, batch, num_completed=80), 20)
            runner = server.status["batch_runner"]["pid"]
        server.process.kill()
        wait_until(lambda: not is_running(runner))
    finally:
        server.close()
    server = start(tmp_path)
    try:
        with server.openai() as api:
            interrupted = texts(api, ended(api, batch))
            assert interrupted == texts(api, ended(api, begin(api, requests)))
            assert len(interrupted) == 240
            begin(api, requests)
            wait_until(lambda: server.status["batch_runner"]["pid"])
            runner = server.status["batch_runner"]["pid"]
        server.process.terminate()
        assert server.process.wait(20) == 0
        assert not is_running(runner)
        assert server.status["batch_runner"] == {"pid": None, "state": "stopped"}
    finally:
        server.close()
