import asyncio
import time

import pytest

from ipc import core_link
from ipc.client import EngineClient
from ipc.errors import EngineUnavailableError, RequestTimeoutError, ServerError
from ipc.messages import CallMethod, ClientRole
from ipc.recovery import CoreLossPolicy
from tests.factories import make_params
from tests.processes import core_process


@pytest.fixture
def core(tmp_path):
    with core_process(tmp_path, fake_step_ms=2) as core:
        yield core


def talk(core, conversation, **settings):
    """Run `conversation(client)` with a started client."""

    async def run():
        client = EngineClient(core.run_dir.core_socket, name="test", role=ClientRole.FRONTEND, **settings)
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


async def seen_as_dead(client):
    """Return as soon as the client knows that the core is gone."""
    while client.is_ready:  # noqa: ASYNC110  there is no event for it
        await asyncio.sleep(0.001)


def test_the_core_is_greeted_as_soon_as_there_is_a_connection(core, monkeypatch):
    monkeypatch.setattr(core_link, "_HELLO_INTERVAL_S", 1000)  # a second HELLO would come too late
    assert talk(core, lambda client: client.wait_ready(20)).core_pid == core.process.pid


def test_a_reader_that_waits_for_the_end_gets_all_at_once(core):
    async def conversation(client):
        await client.wait_ready(20)
        stream = client.submit([1, 2, 3], make_params(max_tokens=20))
        stream.wait_for_end()
        outputs = [output async for output in stream]
        expected, _ = await read(client.submit([1, 2, 3], make_params(max_tokens=20)))
        assert [output.token_ids for output in outputs] == [expected]
        assert outputs[0].finished is not None

    talk(core, conversation)


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
        core.kill()
        killed_at = time.monotonic()
        await seen_as_dead(client)
        with pytest.raises(EngineUnavailableError):
            client.submit([1], make_params())
        return time.monotonic() - killed_at

    assert talk(core, conversation) < 1


def test_streams_go_on_with_the_next_core_as_if_nothing_had_happened(core):
    prompts = [[n, n + 1] for n in range(12)]
    params = make_params(max_tokens=100)

    async def conversation(client):
        before = await client.wait_ready(20)
        whole = await asyncio.gather(*(read(client.submit(prompt, params)) for prompt in prompts))
        streams = [client.submit(prompt, params) for prompt in prompts]
        first = await anext(streams[0])
        core.kill()
        core.start()
        resumed = await asyncio.gather(*(read(stream) for stream in streams))
        return before, client.welcome, whole, first.token_ids, resumed

    before, after, whole, first, resumed = talk(core, conversation)
    assert after.epoch > before.epoch
    assert [first + resumed[0][0], *(tokens for tokens, _ in resumed[1:])] == [tokens for tokens, _ in whole]
    assert [finished.num_output_tokens for _, finished in resumed] == [100] * 12
    assert [finished.num_prompt_tokens for _, finished in resumed] == [2] * 12


def test_under_the_policy_fail_only_what_has_begun_ends(core):
    async def conversation(client):
        await client.wait_ready(20)
        begun = client.submit([1], make_params(max_tokens=2000))
        await anext(begun)
        waiting = client.submit([2], make_params(max_tokens=20))
        core.kill()
        with pytest.raises(EngineUnavailableError) as caught:
            await read(begun)
        core.start()
        tokens, _ = await read(waiting)
        return caught.value.code, len(tokens)

    assert talk(core, conversation, on_core_loss=CoreLossPolicy.FAIL) == ("engine_restarted", 20)


def test_a_stream_without_a_core_can_be_aborted(core):
    async def conversation(client):
        await client.wait_ready(20)
        stream = client.submit([1], make_params(max_tokens=2000))
        await anext(stream)
        core.kill()
        await seen_as_dead(client)
        stream.abort("enough")
        core.start()
        await client.wait_ready(20)
        return await client.call(CallMethod.STATS)

    assert talk(core, conversation)["num_running"] == 0


def test_closing_ends_the_streams_without_a_core(core):
    async def conversation(client):
        await client.wait_ready(20)
        stream = client.submit([1], make_params(max_tokens=2000))
        core.kill()
        await seen_as_dead(client)
        await client.close()
        with pytest.raises(EngineUnavailableError, match="closed"):
            await read(stream)

    talk(core, conversation)


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
