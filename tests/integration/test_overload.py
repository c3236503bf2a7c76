"""More requests than may wait: refused at once, while everything that was accepted is answered."""

import asyncio
import statistics
import time

import httpx
import pytest

from ipc.errors import QueueFullError
from ipc.messages import CallMethod, CoreBeat
from tests import raw_http
from tests.factories import make_params
from tests.processes import core_process, stats
from tests.servers import Server
from tests.waiting import wait_until

MAX_NUM_SEQS, MAX_QUEUED_REQUESTS = 8, 128
NUM_REFUSALS = 20
HANG_S = 0.5
"""A guard only; what is aimed at is 50 ms, and the test prints what it was."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    flags = ("--max-num-seqs", str(MAX_NUM_SEQS), "--max-queued-requests", str(MAX_QUEUED_REQUESTS))
    server = Server(tmp_path_factory.mktemp("full"), "fake", *flags, "--fake-step-ms", "20")
    yield server
    server.close()


def body(number, **fields):
    return {"model": "fake", "prompt": f"request {number}", "max_tokens": 3, "ignore_eos": True, **fields}


def queued_and_refused(server):
    """Take all places for good, fill the queue, be refused; then free the places and read what was queued."""

    async def run():
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as http:
            url = "/v1/completions"
            endless = body("endless", max_tokens=3000)
            running = [asyncio.create_task(http.post(url, json=endless)) for _ in range(MAX_NUM_SEQS)]
            await until(http, lambda engine: engine["num_running"] == MAX_NUM_SEQS)
            queued = [asyncio.create_task(http.post(url, json=body(n))) for n in range(MAX_QUEUED_REQUESTS)]
            await until(http, lambda engine: engine["num_waiting"] == MAX_QUEUED_REQUESTS)
            refused = []
            for _ in range(NUM_REFUSALS):
                started_at = time.monotonic()
                answer = await http.post(url, json=body("one too many"))
                refused.append((time.monotonic() - started_at, answer))
            without_body = await asyncio.to_thread(refusal_before_the_body, server)
            for task in running:
                task.cancel()
            return await asyncio.gather(*queued), refused, without_body

    return asyncio.run(run())


def refusal_before_the_body(server):
    """The answer to a request of which only the head was sent."""
    with raw_http.connect(server.url) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        return raw_http.read_until(connection, b"}}")


async def until(http, is_true):
    async with asyncio.timeout(20):
        while not is_true((await http.get("/health")).json()["engine"]):  # noqa: ASYNC110  of another process
            await asyncio.sleep(0.05)


def test_one_more_than_may_wait_is_refused_at_once_and_nothing_is_lost(server):
    queued, refused, without_body = queued_and_refused(server)
    for _, answer in refused:
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert raw_http.error_of(without_body)["code"] == "queue_full"
    median_s = statistics.median(seconds for seconds, _ in refused)
    print(f"refused after {median_s * 1e3:.1f} ms (median of {NUM_REFUSALS})")
    assert median_s < HANG_S
    assert [answer.status_code for answer in queued] == [200] * MAX_QUEUED_REQUESTS
    with server.http() as http:
        for number, answer in enumerate(queued[::16]):
            alone = http.post("/v1/completions", json=body(16 * number)).json()
            assert answer.json()["choices"] == alone["choices"]


def test_occupancy_is_right_while_a_long_step_runs(tmp_path):
    with core_process(tmp_path, max_num_seqs=1, max_queued_requests=2, fake_step_ms=4000) as core:
        client, other = core.connect(), core.connect("other")
        first = client.submit([1], make_params(max_tokens=1))
        wait_until(lambda: other.wait(0.1) and other.session.load.num_running == 1)
        queued = [client.submit([n], make_params(max_tokens=1)) for n in (2, 3)]
        wait_until(lambda: other.wait(0.1) and other.session.load.num_waiting == 2)
        assert other.session.load.num_queued_tokens == 2
        assert other.session.load.retry_after_ms >= 1000
        with pytest.raises(QueueFullError):
            other.collect(other.submit([4], make_params()))
        client.wait(0)
        assert first.try_take() is None, "the step was not long enough for this test"
        for request in queued:
            client.abort(request.request_id)


def test_every_client_hears_each_time_that_the_queue_is_full(tmp_path):
    """Also one that gets no STEP, and however short it lasts: regular beats would miss most of these times."""
    with core_process(tmp_path, max_num_seqs=1, max_queued_requests=1, fake_step_ms=5) as core:
        client, other = core.connect(), core.connect("other")
        endless = client.submit([1], make_params(max_tokens=3000))
        wait_until(lambda: client.wait(0.1) and endless.try_take())
        for _ in range(10):
            waiting = client.submit([2], make_params())
            client.call(CallMethod.PING)
            client.abort(waiting.request_id)
            wait_until(lambda: stats(client)["num_waiting"] == 0)
        heard: list[int] = []

        def has_heard_all() -> bool:
            heard.extend(message.load.num_waiting for message in other.wait(0.1) if isinstance(message, CoreBeat))
            return heard.count(1) >= 10 and heard[-1] == 0

        wait_until(has_heard_all)


def test_too_many_waiting_tokens_are_refused(tmp_path):
    with core_process(tmp_path, max_num_seqs=1, max_queued_tokens=100, fake_step_ms=20) as core:
        client = core.connect()
        endless = client.submit([1], make_params(max_tokens=3000))
        wait_until(lambda: client.wait(0.1) and endless.try_take())
        accepted = [client.submit([n] * 45, make_params()) for n in (2, 3)]
        with pytest.raises(QueueFullError, match="90 prompt tokens"):
            client.collect(client.submit([4] * 11, make_params()))
        client.abort(endless.request_id)
        assert [len(client.collect(request).token_ids) for request in accepted] == [8, 8]
        assert stats(client)["num_waiting"] == 0
