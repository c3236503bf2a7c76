"""A stream that is made on the loop of an engine's client, read on any other event loop.

Used by the asynchronous methods of `universal_engine.py`, `openai_serving_engine.py` and `AsyncLLM`.
Invariant: who stops reading stops what makes the stream.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from fast_inference.core.engine.client_thread import ClientThread

ItemT = TypeVar("ItemT")


async def items_of(
    client: ClientThread, begin: Callable[[], AsyncGenerator[ItemT, None]]
) -> AsyncGenerator[ItemT, None]:
    """The items of what `begin` makes; raises what that raises, and `EngineUnavailableError` without an engine."""
    loop = asyncio.get_running_loop()
    items: asyncio.Queue[tuple[ItemT] | None] = asyncio.Queue()

    def put(item: tuple[ItemT] | None) -> None:
        with contextlib.suppress(RuntimeError):  # the reader's loop is closed: nobody reads any more
            loop.call_soon_threadsafe(items.put_nowait, item)

    async def pump() -> None:
        async with aclosing(begin()) as source:
            async for item in source:
                put((item,))

    future = client.submit(pump())
    future.add_done_callback(lambda _: put(None))
    try:
        while (entry := await items.get()) is not None:
            yield entry[0]
        future.result()
    finally:
        future.cancel()
