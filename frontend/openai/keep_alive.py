"""Comments in a stream that has nothing to say, so that no proxy takes it for dead.

Used by `streaming.py`. A comment is no event: clients skip it. Invariant: between two events, never inside of one.
"""

import asyncio

from starlette.types import Send

PING = b": ping\n\n"


class KeepAlive:
    """Sends `PING` whenever nothing was sent for `interval_s`."""

    def __init__(self, send: Send, interval_s: float) -> None:
        self._send = send
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._sent_at = self._loop.time()
        self._task = asyncio.create_task(self._run()) if interval_s else None

    def touch(self) -> None:
        """Something was sent."""
        self._sent_at = self._loop.time()

    async def stop(self) -> None:
        """Send nothing more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            silence_left_s = self._sent_at + self._interval_s - self._loop.time()
            if silence_left_s > 0:
                await asyncio.sleep(silence_left_s)
                continue
            await self._send({"type": "http.response.body", "body": PING, "more_body": True})
            self.touch()
