"""Work for a client that has left is cancelled."""

import asyncio

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from frontend.disconnect import run_while_connected


def request(disconnected: asyncio.Event) -> Request:
    async def receive() -> Message:
        await disconnected.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http"}, receive)


def test_the_result_is_returned_while_the_client_stays():
    async def work() -> int:
        return 7

    async def run() -> int:
        return await run_while_connected(request(asyncio.Event()), work())

    assert asyncio.run(run()) == 7


def test_errors_of_the_work_pass_through():
    async def work() -> None:
        raise KeyError("x")

    async def run() -> None:
        await run_while_connected(request(asyncio.Event()), work())

    with pytest.raises(KeyError):
        asyncio.run(run())


def test_the_work_has_ended_when_the_client_is_reported_gone():
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("work")

    async def run() -> None:
        gone = asyncio.Event()
        asyncio.get_running_loop().call_later(0.01, gone.set)
        with pytest.raises(ClientDisconnect):
            await run_while_connected(request(gone), work())
        assert ended == ["work"]

    asyncio.run(run())
