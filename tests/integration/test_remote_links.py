"""A link to a core on another host that is cut, that ends, and whose core dies, through a proxy in between."""

import asyncio
from contextlib import asynccontextmanager

import pytest
import zmq
import zmq.asyncio

from ipc import codec, core_link
from ipc.client import EngineClient
from ipc.curve import CurveDir
from ipc.endpoints import RemoteCore
from ipc.errors import EngineUnavailableError
from ipc.messages import ClientRole, CoreState, Dying
from ipc.recovery import CoreLossPolicy
from tests.factories import make_params, make_welcome
from tests.processes import core_process
from tests.programs import free_port
from tests.tcp_proxy import TcpProxy

NUM_STREAMS = 5
PARAMS = make_params(max_tokens=250)


@pytest.fixture(autouse=True)
def tries_again_soon(monkeypatch):
    monkeypatch.setattr(core_link, "_NEW_CONNECTION_S", 1.5)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = CurveDir(tmp_path_factory.mktemp("keys"))
    folder.make("client")
    return folder


@pytest.fixture(scope="module")
def port():
    return free_port()


def start_core(folder, keys, port):
    return core_process(folder, fake_step_ms=3, core_endpoint=f"tcp://127.0.0.1:{port}", curve_dir=str(keys.path))


@pytest.fixture(scope="module")
def core(tmp_path_factory, keys, port):
    with start_core(tmp_path_factory.mktemp("core"), keys, port) as core:
        yield core


@pytest.fixture(scope="module")
def expected(core):
    """The tokens of each stream where nothing happens."""
    client = core.connect()
    requests = [client.submit([number], PARAMS) for number in range(NUM_STREAMS)]
    return [client.collect(request).token_ids for request in requests]


@pytest.fixture
def proxy(core, port):
    with TcpProxy(port) as proxy:
        yield proxy


@asynccontextmanager
async def connected(address, **settings):
    client = EngineClient(address, name="remote", role=ClientRole.BATCH, **settings)
    await client.start()
    try:
        async with asyncio.timeout(30):
            await client.wait_ready(20)
            yield client
    finally:
        await client.close()


async def until(condition):
    while not condition():  # noqa: ASYNC110 - nothing tells when it is so
        await asyncio.sleep(0.02)


async def begin(client):
    """Streams that have given their first tokens, and these."""
    streams = [client.submit([number], PARAMS) for number in range(NUM_STREAMS)]
    return streams, [[*(await anext(stream)).token_ids] for stream in streams]


async def finish(streams, token_ids):
    for stream, begun in zip(streams, token_ids, strict=True):
        async for output in stream:
            begun += output.token_ids
    return token_ids


def run_through(proxy, keys, disturb):
    """All tokens of the streams whose client `disturb` had its way with, and how many cores each of them had."""

    async def run():
        async with connected(RemoteCore(f"tcp://127.0.0.1:{proxy.port}", keys.path)) as client:
            streams, token_ids = await begin(client)
            await disturb(client)
            await finish(streams, token_ids)
            return token_ids, {stream.num_cores for stream in streams}

    return asyncio.run(run())


def test_what_a_short_cut_holds_back_comes_later_and_nothing_is_lost(proxy, keys, expected):
    async def cut(client):
        proxy.cut()
        await until(lambda: client.beat_age_s > 1.2)
        proxy.mend()

    assert run_through(proxy, keys, cut) == (expected, {1})


def test_a_core_is_lost_when_a_cut_is_longer_than_its_lease(proxy, keys, expected, monkeypatch):
    monkeypatch.setattr(core_link, "_REMOTE_LEASE_S", 0.8)

    async def cut(client):
        proxy.cut()
        await until(lambda: not client.is_ready)
        assert "silent" in client.detail
        proxy.mend()

    assert run_through(proxy, keys, cut) == (expected, {2})


@pytest.mark.parametrize("only_near", [False, True], ids=["both ends", "the end of the client"])
def test_streams_go_on_with_the_same_core_when_their_connection_has_ended(proxy, keys, expected, only_near):
    async def end(client):
        proxy.end_connections(only_near=only_near)
        await until(lambda: not client.is_ready)
        await client.wait_ready(10)

    assert run_through(proxy, keys, end) == (expected, {2})


def test_the_death_of_a_core_elsewhere_is_seen_at_once(tmp_path, keys):
    """Without its lease, which is longer than this test."""
    port = free_port()

    async def kill(core):
        address = RemoteCore(f"tcp://127.0.0.1:{port}", keys.path)
        async with connected(address, on_core_loss=CoreLossPolicy.FAIL) as client:
            streams, _ = await begin(client)
            core.kill()
            await until(lambda: not client.is_ready)
            for stream in streams:
                with pytest.raises(EngineUnavailableError):
                    async for _ in stream:
                        pass
            return client.beat_age_s

    with start_core(tmp_path, keys, port) as core:
        assert asyncio.run(kill(core)) < core_link._REMOTE_LEASE_S


def test_a_core_that_says_that_it_dies_and_does_so_is_lost_too(keys):
    async def submit(context):
        router = context.socket(zmq.ROUTER)
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_SECRETKEY, keys.server_keys().secret)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        client = EngineClient(
            RemoteCore(f"tcp://127.0.0.1:{port}", keys.path),
            name="remote",
            role=ClientRole.BATCH,
            on_core_loss=CoreLossPolicy.RESUME,
        )
        await client.start()
        try:
            async with asyncio.timeout(20):
                identity, _ = await router.recv_multipart()
                await router.send_multipart([identity, codec.encode(make_welcome(epoch=5), 5)])
                await client.wait_ready(10)
                client.submit([1], PARAMS)
                await router.send_multipart([identity, codec.encode(Dying("no more"), 5)])
                await until(lambda: client.state is CoreState.DYING)
                router.close(linger=0)
                await until(lambda: client.state is None and not client.cores[0].num_live)  # it waits for another one
        finally:
            router.close(linger=0)
            await client.close()

    with zmq.asyncio.Context() as context:
        asyncio.run(submit(context))


def test_a_core_that_is_back_in_time_goes_on(tmp_path, keys, expected):
    port = free_port()

    async def restart(core):
        async with connected(RemoteCore(f"tcp://127.0.0.1:{port}", keys.path)) as client:
            streams, token_ids = await begin(client)
            core.kill()
            core.start()
            return await finish(streams, token_ids)

    with start_core(tmp_path, keys, port) as core:
        assert asyncio.run(restart(core)) == expected


def test_a_client_whose_key_becomes_known_later_gets_in(core, port, keys, tmp_path):
    """libzmq itself does not try again where a key was refused."""
    own = CurveDir(tmp_path)
    own.make("late")
    (own.path / "server.key").write_bytes((keys.path / "server.key").read_bytes())
    address = RemoteCore(f"tcp://127.0.0.1:{port}", own.path, "late")

    async def wait():
        client = EngineClient(address, name="late", role=ClientRole.BATCH)
        await client.start()
        try:
            async with asyncio.timeout(10):
                await until(lambda: "does not know the key" in client.detail)
                (keys.clients_dir / "late.key").write_bytes((own.clients_dir / "late.key").read_bytes())
                await client.wait_ready(10)
        finally:
            await client.close()
            (keys.clients_dir / "late.key").unlink()

    asyncio.run(wait())


def test_a_core_with_another_key_is_told_by_name(core, port, keys):
    other = RemoteCore(f"tcp://127.0.0.1:{port}", keys.path, server_key=keys.client_keys("client").public.decode())

    async def wait():
        client = EngineClient(other, name="remote", role=ClientRole.BATCH)
        await client.start()
        try:
            async with asyncio.timeout(10):
                await until(lambda: "server.key" in client.detail)
        finally:
            await client.close()

    asyncio.run(wait())
