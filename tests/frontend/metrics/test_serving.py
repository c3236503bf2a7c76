"""`GET /metrics` of the application: keys, drains, prefixes, batches, and a core that is not there."""

import asyncio

import httpx
import pytest

from frontend.app import create_app
from frontend.batch_api.state_dir import StateDir
from frontend.state import FrontendState
from ipc.client import EngineClient
from ipc.config import FrontendConfig
from ipc.messages import ClientRole
from tests.frontend.applications import application
from tests.processes import core_process


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    with core_process(tmp_path_factory.mktemp("run")) as core:
        yield core


def text_of(core, *, headers=None, before=None, **settings) -> str:
    async def run() -> str:
        async with application(core.run_dir, **settings) as served:
            if before is not None:
                await before(served)
            answer = await served.http.get("/metrics", headers=headers)
            assert answer.status_code == 200, answer.text
            return answer.text

    return asyncio.run(run())


def test_names_begin_with_the_prefix_that_is_set(core):
    text = text_of(core, metrics_prefix="vllm:", served_model_name=("mine",))
    assert 'vllm:num_requests_running{engine="0",model_name="mine"} 0.0\n' in text
    assert "fast_inference" not in text


def test_it_needs_a_key_where_there_are_keys(core):
    async def run() -> int:
        async with application(core.run_dir, api_key=("k",)) as served:
            return (await served.http.get("/metrics")).status_code

    assert asyncio.run(run()) == 401
    assert "fast_inference_core_up" in text_of(core, api_key=("k",), headers={"authorization": "Bearer k"})


def test_it_is_answered_during_a_drain(core):
    async def drain(served) -> None:
        served.state.drain.begin(30)

    assert 'fast_inference_ready{model_name="fake"} 0.0\n' in text_of(core, before=drain)


def test_what_this_frontend_has_counted_is_in_its_own_scrape_at_once(core):
    async def ask(served) -> None:
        for _ in range(3):
            await served.http.get("/v1/models/no-such-model")

    expected = 'http_requests_total{core="0",handler="/v1/models/{model_id:path}",method="GET",status="404"} 3.0\n'
    assert expected in text_of(core, before=ask)


def test_a_method_that_a_route_does_not_have_makes_no_series_of_the_route(core):
    """Eight methods of each route made a scrape hold up its frontend for 75 ms."""

    async def ask(served) -> None:
        for path in ("/v1/chat/completions", "/v1/models"):
            assert (await served.http.delete(path)).status_code == 405

    text = text_of(core, before=ask)
    assert 'http_requests_total{core="0",handler="none",method="DELETE",status="405"} 2.0\n' in text
    assert 'handler="/v1/models",method="DELETE"' not in text


def test_batches_are_counted_by_status(core, tmp_path):
    state_dir = StateDir(tmp_path / "state")
    state_dir.create()

    async def make_batch(served) -> None:
        line = b'{"custom_id":"1","method":"POST","url":"/v1/completions","body":{"model":"fake","prompt":"x"}}\n'
        uploaded = await served.http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in", line)})
        body = {"input_file_id": uploaded.json()["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
        assert (await served.http.post("/v1/batches", json=body)).status_code == 200

    async def look_for_long(served) -> None:
        await make_batch(served)
        await served.http.get("/metrics")  # a slow disk answers the next scrape
        await asyncio.sleep(0.2)

    text = text_of(core, before=look_for_long, state_dir=state_dir.path)
    assert 'fast_inference_batch_jobs{model_name="fake",status="validating"} 1.0\n' in text
    assert 'fast_inference_batch_jobs{model_name="fake",status="completed"} 0.0\n' in text


def test_a_server_that_never_had_a_batch_makes_no_database(core, tmp_path):
    state_dir = StateDir(tmp_path / "state")
    state_dir.create()
    assert "batch_jobs" not in text_of(core, state_dir=state_dir.path)
    assert not state_dir.database.exists()


def test_without_a_core_it_says_so_with_200(tmp_path):
    async def run() -> httpx.Response:
        client = EngineClient(tmp_path / "core.sock", name="frontend-0", role=ClientRole.FRONTEND)
        app = create_app(FrontendState(FrontendConfig(), client, created_at=1))
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://x", timeout=20) as http,
        ):
            return await http.get("/metrics")

    answer = asyncio.run(run())
    assert answer.status_code == 200
    assert 'fast_inference_core_up{core="0",model_name=""} 0.0\n' in answer.text


def test_it_is_answered_while_requests_are_refused(tmp_path):
    async def run(core) -> tuple[int, str]:
        async with application(core.run_dir) as served:
            body = {"model": "fake", "prompt": "x", "max_tokens": 900, "ignore_eos": True}
            asked = [asyncio.create_task(served.http.post("/v1/completions", json=body)) for _ in range(2)]
            async with asyncio.timeout(10):
                while (await served.http.get("/load")).json()["server_load"] < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            refused = await served.http.post("/v1/completions", json=body)
            text = (await served.http.get("/metrics")).text
            for request in asked:
                request.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            return refused.status_code, text

    with core_process(tmp_path, max_num_seqs=1, max_queued_requests=1, fake_step_ms=20) as core:
        status, text = asyncio.run(run(core))
    assert status == 429
    assert 'fast_inference_rejects_total{core="0",model_name="fake",reason="queue_full"} 1.0\n' in text
    assert 'fast_inference_num_requests_waiting{core="0",model_name="fake"} 1.0\n' in text
