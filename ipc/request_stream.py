"""The outputs of one request as an asynchronous iterator: what `ipc.client.EngineClient.submit` gives."""

import asyncio
from collections.abc import Callable, Sequence

from ipc.messages import Add, RequestId
from ipc.request_outputs import Output, RequestOutputs


class RequestStream(RequestOutputs):
    """Outputs of one request, read with `async for`; the last has `finished`, or the iteration raises its error."""

    def __init__(self, add: Add, abort: Callable[[Sequence[RequestId], str], None]) -> None:
        super().__init__(add)
        self._abort = abort
        self._waiter: asyncio.Future[None] | None = None
        self._is_read_out = False
        self._waits_for_end = False

    def __aiter__(self) -> "RequestStream":
        return self

    async def __anext__(self) -> Output:
        """The next outputs.

        Raises:
            QueueFullError, InvalidRequestError: the core refused the request.
            EngineUnavailableError: the core is draining, or was lost and the request does not go on with the next one.
            RequestFailedError: the request failed inside the core.
        """
        if self._is_read_out:
            raise StopAsyncIteration
        while (output := self._try_take_wanted()) is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._is_read_out = output.finished is not None
        return output

    def wait_for_end(self) -> None:
        """From now on the reader sleeps until the request has ended, and then gets all that is unread at once."""
        self._waits_for_end = True

    def _try_take_wanted(self) -> Output | None:
        return None if self._waits_for_end and not self.is_terminated else self.try_take()

    def notify(self) -> None:
        """Wake the reader, if that is what it waits for."""
        if self._waits_for_end and not self.is_terminated:
            return
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def abort(self, reason: str = "") -> None:
        """Stop the request in the core; does nothing once it has ended."""
        self._abort([self.request_id], reason)
