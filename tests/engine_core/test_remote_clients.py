"""A core that also listens on tcp: who has an allowed key is served, everybody else is not even heard."""

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from ipc import core_link
from ipc.client import EngineClient
from ipc.curve import CurveDir
from ipc.endpoints import RemoteCore, connect_to_core
from ipc.errors import EngineUnavailableError
from ipc.messages import CallMethod, ClientRole
from ipc.sync_client import SyncEngineClient
from ipc.tokenizer_files import content_fingerprint
from tests.factories import make_params
from tests.junk_frames import junk_messages
from tests.processes import core_process, stats
from tests.waiting import wait_until

PARAMS = make_params(max_tokens=20)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = CurveDir(tmp_path_factory.mktemp("keys"))
    folder.make("client")
    return folder


@pytest.fixture(scope="module")
def port():
    return free_port()


@pytest.fixture(scope="module")
def core(tmp_path_factory, keys, port):
    settings = {"core_endpoint": f"tcp://127.0.0.1:{port}", "curve_dir": str(keys.path)}
    with core_process(tmp_path_factory.mktemp("core"), fake_step_ms=1, **settings) as core:
        yield core


@pytest.fixture
def address(keys, port):
    return RemoteCore(f"tcp://127.0.0.1:{port}", keys.path)


def test_a_client_with_an_allowed_key_gets_the_same_answers(core, address):
    with SyncEngineClient(address, name="remote") as remote:
        remote.wait_ready(20)
        assert remote.generate([7], PARAMS).token_ids == core.connect().generate([7], PARAMS).token_ids


def test_the_asynchronous_client_may_be_remote_too(core, address):
    async def generate():
        client = EngineClient(address, name="remote", role=ClientRole.BATCH)
        await client.start()
        try:
            await client.wait_ready(20)
            return [token_id async for output in client.submit([7], PARAMS) for token_id in output.token_ids]
        finally:
            await client.close()

    assert asyncio.run(generate()) == core.connect().generate([7], PARAMS).token_ids


def test_the_tokenizer_of_a_core_elsewhere_is_got_once(core, address, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    async def get():
        client = EngineClient(address, name="remote", role=ClientRole.FRONTEND)
        await client.start()
        try:
            welcome = await client.wait_ready(20)
            assert await client.tokenizer_dir(welcome) == Path(welcome.tokenizer_dir)  # the same host
            elsewhere = replace(welcome, tokenizer_dir="/nowhere")
            return elsewhere, [await client.tokenizer_dir(elsewhere) for _ in range(2)]
        finally:
            await client.close()

    welcome, folders = asyncio.run(get())
    assert folders == [tmp_path / "fast-inference" / "tokenizers" / welcome.tokenizer_fingerprint] * 2
    assert content_fingerprint(folders[0]) == welcome.tokenizer_fingerprint


@contextlib.contextmanager
def nobody_else_is_served(core):
    """While strangers try, a client of this host gets its answer."""
    client = core.connect()
    control = client.submit([9], make_params(max_tokens=300))
    yield client
    assert len(client.collect(control).token_ids) == 300
    assert core.process.poll() is None


def test_an_unknown_key_is_refused_and_counted(core, keys, address, tmp_path):
    own = CurveDir(tmp_path)
    own.make("client")
    shutil.copy(keys.path / "server.key", own.path / "server.key")
    with nobody_else_is_served(core) as client:
        before = stats(client)["num_refused_keys"]
        stranger = SyncEngineClient(RemoteCore(address.endpoint, own.path), name="stranger")
        with stranger, pytest.raises(EngineUnavailableError):
            stranger.wait_ready(0.5)
        wait_until(lambda: stats(client)["num_refused_keys"] > before)


def test_a_client_is_added_and_removed_while_the_core_runs(core, keys, address):
    keys.make("late")
    late = RemoteCore(address.endpoint, keys.path, "late")
    with SyncEngineClient(late, name="late") as client:
        client.wait_ready(5)
        (keys.clients_dir / "late.key").unlink()
        assert len(client.generate([7], PARAMS).token_ids) == 20  # who is in stays
    with SyncEngineClient(late, name="late") as client, pytest.raises(EngineUnavailableError):
        client.wait_ready(0.5)


@pytest.mark.parametrize("kind", ["no key", "the wrong server key"])
def test_without_the_right_keys_nothing_is_heard(core, keys, address, kind):
    local = core.connect()
    before = stats(local)["num_bad_messages"]
    with nobody_else_is_served(core), zmq.Context() as context:
        dealer = context.socket(zmq.DEALER)
        if kind != "no key":
            own = keys.client_keys("client")
            dealer.setsockopt(zmq.CURVE_SERVERKEY, own.public)
            dealer.setsockopt(zmq.CURVE_PUBLICKEY, own.public)
            dealer.setsockopt(zmq.CURVE_SECRETKEY, own.secret)
        dealer.connect(address.endpoint)
        with contextlib.suppress(zmq.Again):  # once it is refused, there is nobody to send to
            for frames in junk_messages(seed=5, count=50):
                dealer.send_multipart(frames, zmq.DONTWAIT)
        wait_until(lambda: stats(local)["num_bad_messages"] > before)
        assert not dealer.poll(100)
        dealer.close(linger=0)


def test_junk_of_an_allowed_client_is_dropped_like_that_of_others(core, address):
    client = core.connect()
    before = stats(client)["num_bad_messages"]
    with zmq.Context() as context:
        dealer = connect_to_core(context, address)
        for frames in junk_messages(seed=6, count=500):
            dealer.send_multipart(frames)
        dealer.close(linger=5000)
    wait_until(lambda: stats(client)["num_bad_messages"] >= before + 500)


def test_bytes_that_are_no_greeting_and_silence_end_a_connection(core, port):
    with nobody_else_is_served(core):
        talker = socket.create_connection(("127.0.0.1", port))
        silent = socket.create_connection(("127.0.0.1", port))
        talker.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
        started_at = time.monotonic()
        for connection in (talker, silent):
            connection.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(1000):
                    pass
            connection.close()
        assert time.monotonic() - started_at < 8


def test_a_remote_client_that_is_gone_is_given_up_by_its_lease(core, address):
    """Nobody watches a process on another host."""
    local = core.connect()
    with SyncEngineClient(address, name="remote") as remote:
        remote.wait_ready(20)
        remote.submit([1], make_params(max_tokens=3000))
        wait_until(lambda: stats(local)["num_running"] == 1)
        remote._socket.disconnect(address.endpoint)
        wait_until(lambda: stats(local)["num_running"] == 0, timeout_s=15)


def test_a_remote_core_that_says_nothing_is_lost_until_it_speaks_again(core, address, monkeypatch):
    """What ran there goes on, as it does with another core."""
    monkeypatch.setattr(core_link, "_REMOTE_LEASE_S", 0.8)
    params = make_params(max_tokens=3000)

    async def stop_and_go_on():
        client = EngineClient(address, name="remote", role=ClientRole.BATCH)
        await client.start()
        try:
            await client.wait_ready(20)
            stream = client.submit([1], params)
            token_ids = [*(await anext(stream)).token_ids]
            core.process.send_signal(signal.SIGSTOP)
            async with asyncio.timeout(10):
                while client.is_ready:  # noqa: ASYNC110 - nothing tells when it is not
                    await asyncio.sleep(0.02)
            core.process.send_signal(signal.SIGCONT)
            await client.wait_ready(20)
            async for output in stream:
                token_ids += output.token_ids
            return token_ids
        finally:
            core.process.send_signal(signal.SIGCONT)
            await client.close()

    token_ids = asyncio.run(stop_and_go_on())
    assert token_ids == core.connect().generate([1], params).token_ids


def test_a_core_that_takes_the_place_of_another_takes_the_endpoint_too(tmp_path, keys):
    """Connections to the first one end, and what ran there goes on at the second."""
    port, params = free_port(), make_params(max_tokens=400)
    address = RemoteCore(f"tcp://127.0.0.1:{port}", keys.path)
    settings = {"core_endpoint": address.endpoint, "curve_dir": str(keys.path), "fake_step_ms": 3}
    with core_process(tmp_path, **settings) as first:
        command = [sys.executable, "-m", "engine_core", "--config", str(first.run_dir.config_file)]
        admin = first.connect()
        second = subprocess.Popen([*command, "--slot", "1", "--standby"])

        async def generate():
            client = EngineClient(address, name="remote", role=ClientRole.BATCH)
            await client.start()
            try:
                assert (await client.wait_ready(20)).core_pid == first.process.pid
                stream = client.submit([7], params)
                token_ids = [*(await anext(stream)).token_ids]
                admin.call(CallMethod.RETIRE)
                async for output in stream:
                    token_ids += output.token_ids
                return token_ids, client.welcome.core_pid
            finally:
                await client.close()

        try:
            wait_until(lambda: first.run_dir.core_socket.resolve() == first.run_dir.slot_socket(1).resolve())
            token_ids, core_pid = asyncio.run(generate())
            assert core_pid == second.pid
            assert token_ids == first.connect().generate([7], params).token_ids
        finally:
            second.kill()
            second.wait()


def test_a_taken_port_is_one_line(core, tmp_path, keys, port):
    settings = {"core_endpoint": f"tcp://127.0.0.1:{port}", "curve_dir": str(keys.path)}
    with core_process(tmp_path, **settings) as second:
        assert second.process.wait(10) == 1
        assert second.stderr_file.read_text().splitlines() == [
            f"error: cannot listen on tcp://127.0.0.1:{port}: Address already in use (--core-endpoint)"
        ]
