"""What one frontend says of two cores, and which requests it takes for them."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from frontend.access import Caller
from frontend.batch.executor import BatchExecutor
from frontend.batch.lines import BatchLine
from ipc.core_directory import write_cores
from ipc.errors import EngineUnavailableError, QueueFullError
from tests.factories import make_params
from tests.frontend.applications import Application, application
from tests.processes import CoreProcess, core_processes

LONG = make_params(max_tokens=1500)


@pytest.fixture(scope="module")
def cores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[CoreProcess]]:
    """Each runs 2 requests at once and lets 4 wait; all run and answer again after a test."""
    folder = tmp_path_factory.mktemp("run")
    with core_processes(folder, fake_step_ms=5, max_num_seqs=2, max_queued_requests=4) as cores:
        yield cores


def talk(cores: list[CoreProcess], conversation: Callable[[Application], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with application(cores[0].run_dir) as served:
            return await conversation(served)

    return asyncio.run(run())


async def get(served: Application, path: str, status: int = 200) -> Any:
    answer = await served.http.get(path)
    assert answer.status_code == status, answer.text
    return answer.json()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  there is no event for it
            await asyncio.sleep(0.01)


async def keep_busy(served: Application, count: int) -> None:
    """So many requests run or wait, and their cores have said so."""
    client = served.state.client
    for number in range(count):
        client.submit([number + 1], LONG)
    await until(lambda: client.load.num_running + client.load.num_waiting == count)


def stop(core: CoreProcess) -> None:
    core.process.send_signal(signal.SIGSTOP)


def go_on(core: CoreProcess) -> None:
    core.process.send_signal(signal.SIGCONT)


def test_load_is_a_sum_and_told_by_core(cores: list[CoreProcess]) -> None:
    async def conversation(served: Application) -> Any:
        await keep_busy(served, 3)
        await until(lambda: served.state.client.load.num_running == 3)
        return await get(served, "/load")

    load = talk(cores, conversation)
    assert load["num_requests_running"] == load["server_load"] == 3
    assert load["capacity"] == {
        "running": 4, "waiting": 8, "queued_tokens": 2_000_000, "kv_blocks": 128, "kv_tokens": 128 * 32,
    }  # fmt: skip
    assert [(core["name"], core["state"]) for core in load["cores"]] == [("0", "ready"), ("1", "ready")]
    assert sum(core["num_requests_running"] for core in load["cores"]) == 3
    usages = [core["kv_cache_usage"] for core in load["cores"]]
    assert load["kv_cache_usage"] == pytest.approx(sum(usages) / 2, abs=1e-3)
    assert min(usages) > 0


def test_the_description_has_the_devices_and_sums_of_limits(cores: list[CoreProcess]) -> None:
    info = talk(cores, lambda served: get(served, "/server_info"))
    assert [(core["name"], core["device"], core["num_blocks"]) for core in info["cores"]] == [
        ("0", "none", 64),
        ("1", "none", 64),
    ]
    assert info["kv_cache"] == {"block_size": 32, "num_blocks": 128}
    assert (info["limits"]["max_num_seqs"], info["limits"]["max_queued_requests"]) == (4, 8)


def test_requests_are_taken_until_all_cores_are_full(cores: list[CoreProcess]) -> None:
    async def conversation(served: Application) -> None:
        state = served.state
        await keep_busy(served, 6)  # as many as one core takes
        state.check_admission(6)
        with pytest.raises(QueueFullError):
            state.check_admission(7)
        assert not (await get(served, "/load"))["is_full"]
        await keep_busy_more(served)
        body = {"model": "fake", "prompt": "x", "max_tokens": 1}
        answer = await served.http.post("/v1/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1

    async def keep_busy_more(served: Application) -> None:
        client = served.state.client
        for number in range(6):
            client.submit([number + 50], LONG)
        await until(lambda: client.load.num_running + client.load.num_waiting == 12)
        await until(lambda: client.load.retry_after_ms > 0)

    talk(cores, conversation)


def test_a_request_that_no_core_has_room_for_is_refused(cores: list[CoreProcess]) -> None:
    """The cores together would have."""

    async def conversation(served: Application) -> Any:
        body = {"model": "fake", "prompt": list(range(200)) * 12, "max_tokens": 8}
        return await served.http.post("/v1/completions", json=body)

    answer = talk(cores, conversation)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_it_is_ready_while_one_core_is(cores: list[CoreProcess]) -> None:
    async def conversation(served: Application) -> None:
        cores[1].kill()
        await until(lambda: not served.state.client.cores[1].is_ready)
        health = await get(served, "/health")
        assert (health["status"], health["num_cores_ready"]) == ("ready", 1)
        assert [core["state"] for core in health["cores"]] == ["ready", "dead"]
        load = await get(served, "/load")
        assert load["capacity"]["running"] == 2
        cores[0].kill()
        await until(lambda: not served.state.client.is_ready)
        health = await get(served, "/health", 503)
        assert (health["status"], health["num_cores_ready"]) == ("dead", 0)
        for core in cores:
            core.start()
        await until(lambda: all(core.is_ready for core in served.state.client.cores))
        assert (await get(served, "/health"))["num_cores_ready"] == 2

    talk(cores, conversation)


def test_it_is_stalled_only_where_all_cores_are(cores: list[CoreProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frontend.core_watch.BEAT_TIMEOUT_S", 1.0)

    async def conversation(served: Application) -> None:
        def states() -> list[str]:
            return [served.state.core_watch.status_of(core) for core in served.state.client.cores]

        stop(cores[0])
        await until(lambda: states() == ["stalled", "ready"])
        assert served.state.status == "ready"
        served.state.model()
        stop(cores[1])
        await until(lambda: states() == ["stalled", "stalled"])
        assert served.state.status == "stalled"
        with pytest.raises(EngineUnavailableError, match="stalled"):
            served.state.model()
        go_on(cores[1])
        await until(lambda: served.state.status == "ready")
        assert (await get(served, "/health"))["num_cores_ready"] == 1

    try:
        talk(cores, conversation)
    finally:
        for core in cores:
            go_on(core)


class EndlessLines:
    """A source of lines that take long."""

    number = 0

    async def next(self) -> BatchLine:
        self.number += 1
        body = {"model": "fake", "prompt": "x", "max_tokens": 1500, "ignore_eos": True}
        return BatchLine(self.number, str(self.number), "/v1/completions", body)


def test_a_job_has_more_lines_in_flight_when_more_cores_come(cores: list[CoreProcess]) -> None:
    run_dir = cores[0].run_dir
    sockets = {name: core.run_dir.core_socket for name, core in zip("01", cores, strict=True)}

    async def conversation(served: Application) -> None:
        lines = EndlessLines()
        job = asyncio.create_task(BatchExecutor(served.state, Caller()).run(lines, lambda _: None))
        try:
            await until(lambda: lines.number == 3)
            write_cores(run_dir, sockets)
            await until(lambda: lines.number == 6)
        finally:
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)

    write_cores(run_dir, {"0": sockets["0"]})
    try:
        talk(cores, conversation)
    finally:
        write_cores(run_dir, sockets)
