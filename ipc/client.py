"""The asynchronous client of the engine core: what a frontend holds.

Owns one DEALER socket on the running event loop, the pidfd of the core and a timer. It connects, says HELLO until it
is welcomed, and does so again whenever the core is lost; callers only ever see `is_ready` and their own streams.
`Session` gives the messages their meaning. Next: `engine_core/io_thread.py`, the other end of the socket.
"""

import asyncio
import contextlib
import logging
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import zmq

from ipc import codec
from ipc.endpoints import connect_to_core
from ipc.errors import EngineUnavailableError, ServerError
from ipc.messages import (
    Abort,
    Bye,
    Call,
    CallMethod,
    ClientBeat,
    ClientMessage,
    ClientRole,
    CoreState,
    Load,
    Reply,
    RequestId,
    Welcome,
)
from ipc.process import open_pidfd
from ipc.request_outputs import Output, RequestOutputs
from ipc.sampling_params import SamplingParams
from ipc.session import RequestOptions, Session, own_hello

log = logging.getLogger(__name__)

_HELLO_INTERVAL_S = 0.1
_BEAT_INTERVAL_S = 1.0
_MAX_MESSAGES_PER_WAKE = 64

__all__ = ["EngineClient", "Output", "RequestStream"]


class RequestStream(RequestOutputs):
    """Outputs of one request, read with `async for`; the last has `finished`, or the iteration raises its error."""

    def __init__(self, request_id: RequestId, client: "EngineClient") -> None:
        super().__init__(request_id)
        self._client = client
        self._waiter: asyncio.Future[None] | None = None
        self._is_read_out = False

    def __aiter__(self) -> "RequestStream":
        return self

    async def __anext__(self) -> Output:
        """The next outputs.

        Raises:
            QueueFullError, InvalidRequestError: the core refused the request.
            EngineUnavailableError: the core is draining or was lost.
            RequestFailedError: the request failed inside the core.
        """
        if self._is_read_out:
            raise StopAsyncIteration
        while (output := self.try_take()) is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._is_read_out = output.finished is not None
        return output

    def notify(self) -> None:
        """Wake the reader."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def abort(self, reason: str = "") -> None:
        """Stop the request in the core; does nothing once it has ended."""
        self._client.abort([self.request_id], reason)


class EngineClient:
    """A connection to the core that mends itself; use it from one event loop."""

    def __init__(self, socket_path: Path, *, name: str, role: ClientRole) -> None:
        self._socket_path = socket_path
        self._name = name
        self._role = role
        self._session = Session()
        self._unsent_aborts: list[int] = []
        self._calls: dict[int, asyncio.Future[Reply]] = {}
        self._last_call_id = 0
        self._ready = asyncio.Event()
        self._wake_keeper = asyncio.Event()
        self._core_pidfd: int | None = None
        self._keeper: asyncio.Task[None] | None = None

    # --- what is known of the core ---

    @property
    def state(self) -> CoreState | None:
        """State of the core; None while none is known to live."""
        return self._session.state

    @property
    def is_ready(self) -> bool:
        """True while the core accepts requests."""
        return self._session.is_ready

    @property
    def welcome(self) -> Welcome | None:
        """What the core last said about itself; stays when the core is lost."""
        return self._session.welcome

    @property
    def load(self) -> Load:
        """Occupancy of the core, as last published."""
        return self._session.load

    @property
    def detail(self) -> str:
        """Stage of loading, or why the core was lost."""
        return self._session.detail

    @property
    def beat_age_s(self) -> float:
        """Seconds since the core was last heard."""
        return self._session.beat_age_s

    @property
    def step_age_s(self) -> float:
        """How long the core's running step takes already, as of its last beat; 0 while it is idle."""
        return self._session.step_age_s

    @property
    def step_allowance_s(self) -> float:
        """A step that takes longer than this is stuck; 0 where the core does not say."""
        return self._session.step_allowance_s

    # --- life ---

    async def start(self) -> None:
        """Connect, and keep connected until `close`; returns at once."""
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = connect_to_core(self._context, self._socket_path)
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._on_readable)
        self._keeper = asyncio.create_task(self._keep_connected())

    async def close(self) -> None:
        """Say BYE and let go of the socket; live streams end in `EngineUnavailableError`."""
        if self._keeper is None:
            return
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        self._keeper = None
        self._send(Bye("closed"))
        self._session.fail_all(EngineUnavailableError("The client was closed."))
        self._unwatch_core()
        self._loop.remove_reader(self._fd)
        self._socket.close(linger=100)
        self._context.term()

    async def wait_ready(self, timeout_s: float | None = None) -> Welcome:
        """Wait until the core accepts requests.

        Raises:
            EngineUnavailableError: it did not within the time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self.is_ready:
                    self._ready.clear()
                    await self._ready.wait()
        except TimeoutError as error:
            raise EngineUnavailableError(f"the engine is not ready: {self.detail or 'no answer'}") from error
        assert self.welcome is not None
        return self.welcome

    # --- requests ---

    def submit(
        self,
        prompt_token_ids: Sequence[int],
        sampling_params: SamplingParams,
        **options: Unpack[RequestOptions],
    ) -> RequestStream:
        """Hand a request to the core.

        Raises:
            EngineUnavailableError: the core is not ready, or its socket accepts nothing.
        """
        if not self.is_ready:
            raise EngineUnavailableError(f"The engine is not ready ({self.detail or 'starting'}).")
        add = self._session.new_add(prompt_token_ids, sampling_params, **options)
        stream = RequestStream(add.request_id, self)
        if not self._send(add):
            raise EngineUnavailableError("The engine accepts no messages at the moment.")
        self._session.requests[stream.request_id] = stream
        return stream

    def abort(self, request_ids: Sequence[RequestId], reason: str = "") -> None:
        """Stop these requests; those that have ended are left out."""
        live = [request_id for request_id in request_ids if self._session.requests.pop(request_id, None) is not None]
        if live and not self._send(Abort(array("Q", live), reason)):
            self._unsent_aborts += live

    async def call(
        self, method: CallMethod, arguments: dict[str, int | str] | None = None, timeout_s: float = 5.0
    ) -> dict[str, int | float | str]:
        """Make a control call.

        Raises:
            EngineUnavailableError: no answer within the time.
            ServerError: the core answered with an error.
        """
        self._last_call_id += 1
        call_id = self._last_call_id
        answered: asyncio.Future[Reply] = self._loop.create_future()
        self._calls[call_id] = answered
        try:
            if not self._send(Call(call_id, method, arguments or {})):
                raise EngineUnavailableError("The engine accepts no messages at the moment.")
            async with asyncio.timeout(timeout_s):
                reply = await answered
        except TimeoutError as error:
            raise EngineUnavailableError(f"no answer to {method.name} in {timeout_s} s") from error
        finally:
            del self._calls[call_id]
        if reply.error:
            raise ServerError(reply.error)
        return reply.result

    # --- the socket ---

    def _send(self, message: ClientMessage) -> bool:
        """Send without blocking; False while the core is away or its queue is full."""
        try:
            self._socket.send_multipart(codec.encode(message, self._session.epoch), zmq.DONTWAIT)
        except zmq.Again:
            return False
        finally:
            # ZMQ_FD is edge-triggered: a send may swallow the edge of an arrival.
            self._loop.call_soon(self._on_readable)
        return True

    def _on_readable(self) -> None:
        """Take in what has arrived; the rest of a long queue waits for the next turn of the event loop."""
        if not self._socket.closed and self._take_in():
            self._loop.call_soon(self._on_readable)

    def _take_in(self) -> bool:
        """Take in a bounded number of messages; True if there may be more."""
        for _ in range(_MAX_MESSAGES_PER_WAKE):
            try:
                frames = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return False
            self._on_message(frames)
        return True

    def _on_message(self, frames: list[bytes]) -> None:
        epoch_before, was_ready = self._session.epoch, self.is_ready
        message = self._session.receive(frames)
        for answer in self._session.answers_to(message):
            self._send(answer)
        if isinstance(message, Welcome) and (not was_ready or self._session.epoch != epoch_before):
            self._watch_core(message)
        if self.is_ready:
            self._ready.set()
        if isinstance(message, Reply):
            self._on_reply(message)
        if isinstance(message, Bye):
            self._wake_keeper.set()
        if self._session.lost_request_ids:
            self._unsent_aborts += self._session.lost_request_ids
            self._session.lost_request_ids.clear()
            self._wake_keeper.set()

    def _on_reply(self, reply: Reply) -> None:
        answered = self._calls.get(reply.call_id)  # None: nobody waits any more
        if answered is not None and not answered.done():
            answered.set_result(reply)

    async def _keep_connected(self) -> None:
        """Say HELLO until welcomed, then beat; retries what could not be sent."""
        hello = own_hello(self._name, self._role)
        sequence = 0
        while True:
            if self.state in (CoreState.READY, CoreState.DRAINING):
                sequence += 1
                self._send(ClientBeat(sequence, len(self._session.requests)))
                if self._unsent_aborts and self._send(Abort(array("Q", self._unsent_aborts))):
                    self._unsent_aborts.clear()
                await self._nap(_BEAT_INTERVAL_S)
            else:
                self._send(hello)
                await asyncio.sleep(_HELLO_INTERVAL_S)

    async def _nap(self, seconds: float) -> None:
        """Sleep until there is news for the keeper, at most this long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake_keeper.wait()
        self._wake_keeper.clear()

    # --- the core's process ---

    def _watch_core(self, welcome: Welcome) -> None:
        self._unwatch_core()
        self._core_pidfd = open_pidfd(welcome.core_pid, welcome.core_pid_start_ticks)
        if self._core_pidfd is None:
            self._session.lose("its process is gone")
        else:
            self._loop.add_reader(self._core_pidfd, self._on_core_death)

    def _unwatch_core(self) -> None:
        if self._core_pidfd is not None:
            self._loop.remove_reader(self._core_pidfd)
            os.close(self._core_pidfd)
            self._core_pidfd = None

    def _on_core_death(self) -> None:
        self._unwatch_core()
        while self._take_in():  # what it said before it died still counts
            pass
        self._unsent_aborts.clear()
        self._session.lose("its process ended")
        self._wake_keeper.set()
