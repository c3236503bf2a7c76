import asyncio
import os
import signal
import stat
import tempfile
from pathlib import Path

import pytest

from fast_inference.config_file import write_config
from fast_inference.ray_executor import core_host
from fast_inference.ray_executor.core_host import CoreHost
from fast_inference.ray_executor.fleet_spec import FleetSpec
from fast_inference.ray_executor.records import CoreOrders
from fast_inference.settings import resolve_settings
from ipc.client import EngineClient
from ipc.curve import CurveDir
from ipc.endpoints import RemoteCore
from ipc.messages import ClientRole
from ipc.sampling_params import SamplingParams


@pytest.fixture
def short_path():
    with tempfile.TemporaryDirectory() as folder:  # paths of sockets are
        yield Path(folder)


@pytest.fixture
def make_host(tmp_path, short_path, monkeypatch):
    """A host on this machine whose run dir is in a folder of the test."""
    monkeypatch.setattr("tempfile.tempdir", str(short_path))

    def make_host(**flags):
        settings = resolve_settings(
            {"model": "fake", "executor": "ray", "served_model_name": "fake", "drain_timeout": "5", **flags}
        )
        write_config(settings, tmp_path / "config.json")
        return CoreHost("0", FleetSpec.read(tmp_path / "config.json"), "node", "127.0.0.1", 1)

    return make_host


@pytest.fixture
def keys(tmp_path):
    """Of a client `me`."""
    keys = CurveDir(tmp_path / "client")
    return keys, CoreOrders({"me": keys.make_client("me")})


def clients_dir_in(folder):
    return next(folder.rglob("server.key")).parent / "clients"


async def until(condition):
    while not condition():  # noqa: ASYNC110  of another process
        await asyncio.sleep(0.02)


def client_of(report, keys):
    return EngineClient(
        RemoteCore(report.endpoint, keys.path, "me", report.server_key), name="test", role=ClientRole.FRONTEND
    )


async def text_of(client):
    stream = client.submit([1, 2, 3], SamplingParams(max_tokens=4))
    return [token async for output in stream for token in output.token_ids]


def test_a_core_serves_whoever_is_let_in_comes_back_where_it_was_and_leaves_nothing(make_host, keys, short_path):
    async def scenario():
        folder, orders = keys
        host = make_host()
        running = asyncio.create_task(host.run())
        await until(lambda: host.report().server_key)
        assert host.report().pid is None  # nobody may connect yet

        host.allow(orders)
        await until(lambda: host.report().state == "ready")
        report = host.report()
        assert report.clients == ("me",)
        run_dir = next(short_path.glob("fast-inference-*/ray-*"))
        assert stat.S_IMODE((run_dir / "keys/server.key_secret").stat().st_mode) == 0o600

        client = client_of(report, folder)
        await client.start()
        await client.wait_ready(10)
        tokens = await text_of(client)
        assert len(tokens) == 4

        os.kill(report.pid, signal.SIGKILL)
        await until(lambda: host.report().pid not in (None, report.pid) and host.report().state == "ready")
        again = host.report()
        assert (again.endpoint, again.server_key) == (report.endpoint, report.server_key)
        assert again.restarts == {"signal": 1}
        await until(lambda: client.is_ready and client.welcome.epoch == again.epoch)
        assert await text_of(client) == tokens
        await client.close()

        await host.end()
        assert host.report().has_ended
        assert not run_dir.exists()
        running.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_why_a_core_cannot_start_is_told_and_it_is_tried_again(make_host, keys, monkeypatch):
    async def scenario():
        monkeypatch.setattr(core_host, "RETRY_S", 0.01)
        host = make_host(model="no-such-model")
        running = asyncio.create_task(host.run())
        await until(lambda: host.report().failure)
        assert "no model 'no-such-model'" in host.report().failure
        await host.end()
        assert host.report().has_ended
        running.cancel()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_keys_that_cannot_be_written_are_tried_again_and_end_nothing(make_host, keys, short_path):
    async def scenario():
        _, orders = keys
        host = make_host()
        running = asyncio.create_task(host.run())
        try:
            await until(lambda: host.report().server_key)
            clients_dir = clients_dir_in(short_path)
            clients_dir.write_text("in the way, as a full disk is")
            host.allow(orders)
            assert host.report().clients == ()
            clients_dir.unlink()
            host.allow(orders)
            assert host.report().clients == ("me",)
        finally:
            await host.end()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
