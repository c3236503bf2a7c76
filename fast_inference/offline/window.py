"""Many prompts, of which a bounded number is in the engine at a time; what they give comes in the order of the prompts.

Prompts are pulled where the caller is (its thread, its event loop), one for each that ends; the work itself runs on the
loop of `ClientThread`. The first failure ends everything at once.
Invariant: however the reading ends (done, error, interrupt, abandoned), nothing of it runs on.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from fast_inference.core.engine.client_thread import ClientThread
from fast_inference.core.engine.waiting import answer_of, next_of

ItemT = TypeVar("ItemT")
OutputT = TypeVar("OutputT")


@dataclass(frozen=True, slots=True)
class Work(Generic[ItemT, OutputT]):
    """What is done with each item, and how many of them at a time."""

    client: ClientThread
    run: Callable[[ItemT], Coroutine[Any, Any, OutputT]]
    max_running: int
    max_unread: int | None
    """Most outputs that wait for their turn, those that run included; None where all of them are kept anyway."""
    on_output: Callable[[OutputT], None]
    """Called where the caller is, for each one as it ends."""


class _Window(Generic[ItemT, OutputT]):
    """Which items have begun, and which outputs may be handed on."""

    def __init__(self, work: Work[ItemT, OutputT], put_ended: "Callable[[Future[OutputT]], None]") -> None:
        self._work = work
        self._put_ended = put_ended
        self._unread: deque[Future[OutputT]] = deque()
        self._ended: set[Future[OutputT]] = set()
        self._num_running = 0

    @property
    def has_room(self) -> bool:
        """True while another item may begin."""
        max_unread = self._work.max_unread
        return self._num_running < self._work.max_running and (max_unread is None or len(self._unread) < max_unread)

    @property
    def is_empty(self) -> bool:
        """True where nothing runs or waits to be read."""
        return not self._unread

    def begin(self, item: ItemT) -> None:
        """Start with an item."""
        future = self._work.client.submit(self._work.run(item))
        self._unread.append(future)
        self._num_running += 1
        future.add_done_callback(self._put_ended)

    def settle(self, future: "Future[OutputT]") -> None:
        """Take note of one that has ended; raises what it failed with."""
        self._num_running -= 1
        self._work.on_output(answer_of(future))
        self._ended.add(future)

    def take(self) -> Iterator[OutputT]:
        """Outputs whose turn it is."""
        while self._unread and self._unread[0] in self._ended:
            future = self._unread.popleft()
            self._ended.remove(future)
            yield future.result()

    def cancel(self) -> None:
        """Stop what runs."""
        for future in self._unread:
            future.cancel()


def outputs_of(work: Work[ItemT, OutputT], items: Iterator[ItemT]) -> Iterator[OutputT]:
    """The outputs of all items, in order; raises what an item failed with, and what `items` raises."""
    ended: SimpleQueue[Future[OutputT]] = SimpleQueue()
    window = _Window(work, ended.put)
    has_more = True
    try:
        while True:
            while has_more and window.has_room:
                try:
                    window.begin(next(items))
                except StopIteration:
                    has_more = False
            if window.is_empty:
                return
            window.settle(next_of(ended))
            yield from window.take()
    finally:
        window.cancel()


async def async_outputs_of(work: Work[ItemT, OutputT], items: AsyncIterator[ItemT]) -> AsyncGenerator[OutputT, None]:
    """The same on any event loop."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Queue[Future[OutputT]] = asyncio.Queue()

    def put(future: "Future[OutputT]") -> None:
        with contextlib.suppress(RuntimeError):  # the reader's loop is closed: nobody reads any more
            loop.call_soon_threadsafe(ended.put_nowait, future)

    window = _Window(work, put)
    has_more = True
    try:
        while True:
            while has_more and window.has_room:
                try:
                    window.begin(await anext(items))
                except StopAsyncIteration:
                    has_more = False
            if window.is_empty:
                return
            window.settle(await ended.get())
            for output in window.take():
                yield output
    finally:
        window.cancel()
