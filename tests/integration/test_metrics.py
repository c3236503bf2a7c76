"""`/metrics` of a whole server: the same totals from each frontend, whatever becomes of the processes."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.servers import Server
from tests.waiting import wait_until

COMPLETION = {"model": "fake", "prompt": "abc", "max_tokens": 7, "ignore_eos": True}
NUM_PROMPT_TOKENS = 3
TOTALS = (
    "fast_inference_request_success_total",
    "fast_inference_prompt_tokens_total",
    "fast_inference_generation_tokens_total",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("metrics"), "fake", "--frontends", "2", "--fake-step-ms", "1")
    yield server
    server.close()


class Metrics:
    """A scrape."""

    def __init__(self, text: str) -> None:
        self._samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """The sum of all series of a name that have these labels."""
        found = [sample for sample in self._samples if sample.name == name and labels.items() <= sample.labels.items()]
        return sum(sample.value for sample in found)


def connect_to_each(server: Server) -> list[httpx.Client]:
    """A connection to each frontend, which keep to it."""
    by_pid: dict[int, httpx.Client] = {}
    while len(by_pid) < len(server.frontend_pids):  # the one with fewer connections accepts next
        client = server.http()
        if by_pid.setdefault(client.get("/health/live").json()["pid"], client) is not client:
            client.close()
    return list(by_pid.values())


def scrape(client: httpx.Client) -> Metrics:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return Metrics(answer.text)


async def complete_many(url: str, count: int) -> int:
    """Answers of so many requests at a time, half of them streams; returns the tokens that `usage` counts."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:

        async def complete(number: int) -> int:
            body = {**COMPLETION, "max_tokens": 1 + number % 9}
            if number % 2:
                body |= {"stream": True, "stream_options": {"include_usage": True}}
            answer = await client.post("/v1/completions", json=body)
            whole = answer.text.split("data: ")[-2] if number % 2 else answer.text
            return int(json.loads(whole)["usage"]["completion_tokens"])

        return sum(await asyncio.gather(*map(complete, range(count))))


def test_each_frontend_gives_the_totals_that_clients_counted(server):
    clients = connect_to_each(server)
    before = scrape(clients[0])
    num_tokens = asyncio.run(complete_many(server.url, 60))
    totals = []
    for client in clients:
        after = scrape(client)
        totals.append([after.total(name) - before.total(name) for name in TOTALS])
    assert totals == [[60, 60 * NUM_PROMPT_TOKENS, num_tokens]] * 2
    answered = {"handler": "/v1/completions", "method": "POST", "status": "200"}
    for client in clients:  # the other frontend's counts come within a second
        wait_until(lambda client=client: scrape(client).total("http_requests_total", **answered) == 60)
        client.close()


def test_promtool_finds_nothing_wrong(server):
    with server.http() as client:
        client.post("/v1/completions", json=COMPLETION)
        text = client.get("/metrics").text
    check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


def test_refusals_and_aborts_are_counted_by_their_reasons(server):
    with server.http() as client:
        assert client.post("/v1/completions", json={**COMPLETION, "temperature": -1}).status_code == 400
        assert client.get("/no/such/route").status_code == 404
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/completions", json={**COMPLETION, "max_tokens": 2000}, timeout=0.2)
    with server.http() as client:
        wait_until(lambda: scrape(client).total("fast_inference_aborts_total", reason="disconnect") == 1)
        wait_until(lambda: scrape(client).total("fast_inference_rejects_total", reason="not_found") == 1)
        metrics = scrape(client)
        assert metrics.total("fast_inference_rejects_total", reason="invalid_value") == 1
        assert metrics.total("http_requests_total", handler="none", status="404") == 1
        assert metrics.total("fast_inference_ready") == metrics.total("fast_inference_core_up") == 1
        assert metrics.total("fast_inference_frontends") == 2


def test_totals_outlive_a_frontend_and_are_there_while_the_core_is_not(server):
    with server.http() as client:
        for _ in range(5):
            client.post("/v1/completions", json=COMPLETION)
        before = scrape(client).total("http_requests_total", handler="/v1/completions")
    assert before >= 5
    for num_restarts, pid in enumerate(server.frontend_pids, 1):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda gone=pid: gone not in server.frontend_pids and all(server.frontend_pids))
        with server.http() as client:
            metrics = scrape(client)
            assert metrics.total("http_requests_total", handler="/v1/completions") >= before
            assert metrics.total("fast_inference_frontend_restarts_total") == num_restarts
    with server.http() as client:
        os.kill(server.core_pid, signal.SIGKILL)
        without_core = scrape(client)
        assert without_core.total("fast_inference_core_up") == 0 == without_core.total("fast_inference_ready")
        wait_until(lambda: scrape(client).total("fast_inference_ready") == 1)
        after = scrape(client)
        assert after.total("fast_inference_core_restarts_total", reason="signal") == 1
        assert after.total("fast_inference_generation_tokens_total") == 0
