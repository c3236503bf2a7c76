"""Comments fill the silence of a stream, between its events."""

import asyncio

from starlette.types import Message

from frontend.openai.keep_alive import PING, KeepAlive


def run_with(interval_s: float, work) -> list[bytes]:
    sent: list[bytes] = []

    async def send(message: Message) -> None:
        sent.append(message["body"])

    async def run() -> None:
        keep_alive = KeepAlive(send, interval_s)
        await work(keep_alive, sent)
        await keep_alive.stop()
        num_sent = len(sent)
        await asyncio.sleep(0.03)
        assert len(sent) == num_sent

    asyncio.run(run())
    return sent


def test_silence_is_filled_until_it_stops():
    async def wait(_: KeepAlive, sent: list[bytes]) -> None:
        async with asyncio.timeout(5):
            while len(sent) < 3:  # noqa: ASYNC110  that is what is tested
                await asyncio.sleep(0.005)

    assert set(run_with(0.02, wait)) == {PING}


def test_a_stream_that_speaks_needs_none():
    async def speak(keep_alive: KeepAlive, _: list[bytes]) -> None:
        for _ in range(20):
            keep_alive.touch()
            await asyncio.sleep(0.005)

    assert run_with(0.5, speak) == []


def test_it_can_be_turned_off():
    async def wait(*_: object) -> None:
        await asyncio.sleep(0.03)

    assert run_with(0, wait) == []
