"""Requests that wait or run too long: over HTTP, with everybody else untouched."""

import asyncio
import json
import time

import httpx
import pytest

from tests.processes import stats
from tests.servers import Server

QUEUE_TIMEOUT_S, REQUEST_TIMEOUT_S = 1.0, 3.0
TOLERANCE_S = 2.0
"""For a loaded machine; on a quiet one it is some hundredths."""
URL = "/v1/completions"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two places, 20 ms a step."""
    flags = (
        "--max-num-seqs",
        "2",
        "--queue-timeout",
        str(QUEUE_TIMEOUT_S),
        "--request-timeout",
        str(REQUEST_TIMEOUT_S),
    )
    server = Server(tmp_path_factory.mktemp("timeouts"), "fake", *flags, "--fake-step-ms", "20")
    yield server
    server.close()


def body(prompt, max_tokens, **fields):
    return {"model": "fake", "prompt": prompt, "max_tokens": max_tokens, "ignore_eos": True, **fields}


async def post(http, **fields):
    """The answer, and how long it took."""
    started_at = time.monotonic()
    answer = await http.post(URL, json=body(**fields))
    return answer, time.monotonic() - started_at


def events(answer):
    """The data of all events of a stream."""
    return [item.removeprefix("data: ") for item in answer.text.strip().split("\n\n")]


def run_together(server, *requests):
    """Send the requests one after the other, a moment apart, and wait for all."""

    async def run():
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as http:
            tasks = []
            for fields in requests:
                tasks.append(asyncio.create_task(post(http, **fields)))
                await asyncio.sleep(0.2)
            return await asyncio.gather(*tasks)

    return asyncio.run(run())


def assert_all_blocks_are_free(server):
    with server.connect() as client:
        now = stats(client)
    assert (now["num_running"], now["num_waiting"], now["num_free_blocks"]) == (0, 0, server.num_blocks)


def test_who_waits_or_runs_too_long_fails_alone(server):
    (too_long, ran_s), (in_time, _), (queued, waited_s) = run_together(
        server,
        {"prompt": "too long", "max_tokens": 3000},
        {"prompt": "in time", "max_tokens": 60},
        {"prompt": "queued", "max_tokens": 5},
    )
    assert (too_long.status_code, too_long.json()["error"]["code"]) == (504, "timeout")
    assert REQUEST_TIMEOUT_S <= ran_s < REQUEST_TIMEOUT_S + TOLERANCE_S
    assert (queued.status_code, queued.json()["error"]["code"]) == (503, "queue_timeout")
    assert int(queued.headers["retry-after"]) >= 1
    assert QUEUE_TIMEOUT_S <= waited_s < QUEUE_TIMEOUT_S + TOLERANCE_S
    assert in_time.status_code == 200
    assert_all_blocks_are_free(server)
    with server.http() as http:
        alone = http.post(URL, json=body("in time", 60)).json()
    assert in_time.json()["choices"] == alone["choices"]


def test_a_stream_that_runs_too_long_ends_in_one_error_event(server):
    ((answer, _),) = run_together(server, {"prompt": "endless", "max_tokens": 3000, "stream": True})
    *chunks, last = events(answer)
    assert len(chunks) > 20
    assert all("error" not in json.loads(chunk) for chunk in chunks)
    error = json.loads(last)["error"]
    assert (error["status"], error["code"]) == (504, "timeout")
    assert_all_blocks_are_free(server)


def test_a_stream_that_waits_too_long_never_begins(server):
    long = {"prompt": "long", "max_tokens": 80}
    *_, (answer, waited_s) = run_together(server, long, long, {"prompt": "late", "max_tokens": 5, "stream": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_timeout")
    assert QUEUE_TIMEOUT_S <= waited_s < QUEUE_TIMEOUT_S + TOLERANCE_S
    assert_all_blocks_are_free(server)
