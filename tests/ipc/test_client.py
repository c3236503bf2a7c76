import asyncio
import time

import pytest

from ipc.client import EngineClient
from ipc.errors import EngineUnavailableError, RequestTimeoutError, ServerError
from ipc.messages import CallMethod, ClientRole
from tests.factories import make_params
from tests.processes import core_process


@pytest.fixture
def core(tmp_path):
    with core_process(tmp_path, fake_step_ms=2) as core:
        yield core


def talk(core, conversation):
    """Run `conversation(client)` with a started client."""

    async def run():
        client = EngineClient(core.run_dir.core_socket, name="test", role=ClientRole.FRONTEND)
        await client.start()
        try:
            return await conversation(client)
        finally:
            await client.close()

    return asyncio.run(run())


async def read(stream):
    """All tokens of a stream, and its end."""
    token_ids = []
    async for output in stream:
        token_ids += output.token_ids
    return token_ids, output.finished


def test_a_stream_ends_with_its_terminal_output(core):
    async def conversation(client):
        await client.wait_ready(20)
        return await read(client.submit([1, 2], make_params(max_tokens=30)))

    token_ids, finished = talk(core, conversation)
    assert len(token_ids) == finished.num_output_tokens == 30


def test_many_streams_do_not_mix(core):
    async def conversation(client):
        await client.wait_ready(20)
        alone = [await read(client.submit([n], make_params())) for n in range(20)]
        together = await asyncio.gather(*(read(client.submit([n], make_params())) for n in range(20)))
        return [tokens for tokens, _ in alone], [tokens for tokens, _ in together]

    alone, together = talk(core, conversation)
    assert alone == together


def test_a_resumed_stream_goes_on_where_it_stopped(core):
    async def conversation(client):
        await client.wait_ready(20)
        params = make_params(max_tokens=30)
        whole, _ = await read(client.submit([1, 2], params))
        return whole, [await read(client.submit([1, 2, *whole[:k]], params, num_resumed_tokens=k)) for k in (1, 17, 30)]

    whole, (after_1, after_17, after_30) = talk(core, conversation)
    assert (after_1[0], after_17[0], after_30[0]) == (whole[1:], whole[17:], [])
    assert after_30[1].num_output_tokens == 30


def test_a_request_that_takes_too_long_ends_in_its_error(core):
    async def conversation(client):
        await client.wait_ready(20)
        with pytest.raises(RequestTimeoutError):
            await read(client.submit([1], make_params(max_tokens=2000), timeout_s=0.1))

    talk(core, conversation)


def test_an_abort_is_counted_at_once(core):
    async def conversation(client):
        await client.wait_ready(20)
        stream = client.submit([1], make_params(max_tokens=2000))
        await anext(stream)
        stream.abort("enough")
        return await client.call(CallMethod.STATS)

    assert talk(core, conversation)["num_running"] == 0


def test_a_killed_core_is_seen_in_less_than_a_second(core):
    async def conversation(client):
        await client.wait_ready(20)
        stream = client.submit([1], make_params(max_tokens=2000))
        await anext(stream)
        core.kill()
        killed_at = time.monotonic()
        with pytest.raises(EngineUnavailableError):
            await read(stream)
        return time.monotonic() - killed_at

    assert talk(core, conversation) < 1


def test_the_next_core_is_found_again(core):
    async def conversation(client):
        before = await client.wait_ready(20)
        stream = client.submit([1], make_params(max_tokens=2000))
        core.kill()
        with pytest.raises(EngineUnavailableError):
            await read(stream)
        with pytest.raises(EngineUnavailableError):
            client.submit([1], make_params())
        core.start()
        after = await client.wait_ready(20)
        token_ids, _ = await read(client.submit([1], make_params()))
        return before.epoch, after.epoch, token_ids

    before, after, token_ids = talk(core, conversation)
    assert after > before
    assert len(token_ids) == 8


def test_waiting_for_a_core_that_is_not_there_ends(tmp_path):
    async def run():
        client = EngineClient(tmp_path / "core.sock", name="test", role=ClientRole.FRONTEND)
        await client.start()
        try:
            with pytest.raises(EngineUnavailableError, match="no answer"):
                await client.wait_ready(0.3)
        finally:
            await client.close()

    asyncio.run(run())


def test_a_call_that_the_core_does_not_answer_is_an_error(core):
    async def conversation(client):
        await client.wait_ready(20)
        assert await client.call(CallMethod.PING) == {}
        core.kill()
        with pytest.raises((EngineUnavailableError, ServerError)):
            await client.call(CallMethod.PING, timeout_s=0.3)

    talk(core, conversation)
