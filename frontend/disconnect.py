"""Clients that leave: work for a whole answer is cancelled as soon as the connection is gone.

Streamed answers watch the connection themselves (`openai/streaming.py`); this is for everything that happens before
the first byte of a response. Called by the endpoints.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

ResultT = TypeVar("ResultT")


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client is gone; the request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def run_while_connected(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run the work, or cancel it when the client leaves.

    Raises:
        ClientDisconnect: the client left; the work has ended.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(wait_for_disconnect(request.receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)
