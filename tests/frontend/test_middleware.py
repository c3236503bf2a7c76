"""The body limit, and what the client gets when a request is cut short."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from frontend.errors import BodyTooLargeError, TooManyBodiesError
from frontend.middleware import BodyLimitMiddleware, RequestContextMiddleware


def scope(**headers: str) -> Scope:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": "POST", "path": "/", "headers": raw}


async def read_all(_: Scope, receive: Receive, send: Send) -> None:
    """An application that reads the whole body."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def post(num_chunks: int, limit: int) -> list[Message]:
    sent: list[Message] = []
    remaining = iter(range(num_chunks, 0, -1))

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * 10, "more_body": next(remaining) > 1}

    async def send(message: Message) -> None:
        sent.append(message)

    await BodyLimitMiddleware(read_all, max_body_bytes=limit)(scope(), receive, send)
    return sent


def test_a_chunked_body_up_to_the_limit_passes():
    assert asyncio.run(post(num_chunks=5, limit=50))[0]["status"] == 200


def test_a_chunked_body_over_the_limit_is_refused_while_it_comes():
    with pytest.raises(BodyTooLargeError):
        asyncio.run(post(num_chunks=10**9, limit=50))


def test_bodies_that_are_held_together_have_a_limit_together():
    """Two of 30 bytes where 50 may be held: the second is refused, and served when the first is gone."""

    async def run() -> None:
        is_served = asyncio.Event()

        async def hold(scope: Scope, receive: Receive, send: Send) -> None:
            while (await receive()).get("more_body"):
                pass
            await is_served.wait()

        def body(num_chunks: int) -> Receive:
            remaining = iter(range(num_chunks, 0, -1))

            async def receive() -> Message:
                return {"type": "http.request", "body": b"x" * 10, "more_body": next(remaining) > 1}

            return receive

        async def send(_: Message) -> None:
            raise AssertionError("never")

        limited = BodyLimitMiddleware(hold, max_body_bytes=100, max_held_bytes=50)
        first = asyncio.create_task(limited(scope(), body(3), send))
        await asyncio.sleep(0)
        with pytest.raises(TooManyBodiesError):
            await limited(scope(), body(3), send)
        is_served.set()
        await first
        await limited(scope(), body(3), send)

    asyncio.run(run())


def test_a_request_cut_short_before_its_answer_is_told_so():
    sent: list[Message] = []

    async def wait(*_: object) -> None:
        await asyncio.Event().wait()

    async def receive() -> Message:
        raise AssertionError("never")

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        task = asyncio.create_task(RequestContextMiddleware(wait)(scope(), receive, send))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    asyncio.run(run())
    assert sent[0]["status"] == 503
    assert b"shutting_down" in sent[1]["body"]
