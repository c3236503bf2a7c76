"""One connection to one core, on the running event loop: a DEALER, the pidfd of the core, and a task that keeps both.

Owned by `ipc.client.EngineClient`. It says HELLO as soon as there is a connection and until it is welcomed, and does so
again whenever the core is lost; `Session` gives the messages their meaning. After each change the owner is called, who
looks at `session`. The death of a core on another host shows in the end of its connection (`connection_watch.py`);
a cut link ends nothing, and is waited for until the lease of the core is over.
Next: `engine_core/io_thread.py`, the other end of the socket.
"""

import asyncio
import contextlib
import logging
import os
import time
from array import array
from collections.abc import Callable, Iterable

import zmq

from ipc import codec
from ipc.connection_watch import ConnectionEvent, ConnectionWatch
from ipc.endpoints import CoreAddress, RemoteCore, connect_to_core, reconnect_to_core
from ipc.messages import Abort, Bye, ClientBeat, ClientMessage, Hello, Reply, RequestId, Welcome
from ipc.process import open_pidfd
from ipc.request_outputs import RequestOutputs
from ipc.session import Session

log = logging.getLogger(__name__)

_HELLO_INTERVAL_S = 0.1
_BEAT_INTERVAL_S = 1.0
_MAX_MESSAGES_PER_WAKE = 64
_REMOTE_LEASE_S = 10.0
"""A core on another host that says nothing for this long is lost, where its connection has not ended."""
_RETURN_GRACE_S = 1.5
"""One whose connection has ended is lost if it does not welcome us again within this time."""
_NEW_CONNECTION_S = 3.0
"""After this long without a word from a core on another host, a new connection is made."""
_PROBLEMS = {
    ConnectionEvent.REFUSED: "it does not know the key of this client",
    ConnectionEvent.FAILED: "no secure connection to it (is server.key the right one?)",
}


class CoreLink:
    """A connection that mends itself."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        address: CoreAddress,
        hello: Hello,
        on_change: Callable[["CoreLink"], None],
        on_reply: Callable[[Reply], None],
        on_beat: Callable[["CoreLink"], None],
    ) -> None:
        """Connect at once, and stay connected until `close`. `on_beat` is called with each beat that is sent."""
        self.session = Session()
        self._hello = hello
        self._remote = address if isinstance(address, RemoteCore) else None
        self._on_change = on_change
        self._on_reply = on_reply
        self._on_beat = on_beat
        self._unsent_aborts: list[int] = []
        self._owes_hello = False
        """The last HELLO could not be sent, because there is no connection yet."""
        self._wake_keeper = asyncio.Event()
        self._core_pidfd: int | None = None
        self._loop = asyncio.get_running_loop()
        self._socket = connect_to_core(context, address)
        self._fd = int(self._socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._on_readable)
        self._watch = ConnectionWatch(self._socket, self._on_connection_event) if self._remote is not None else None
        self._connected_at = time.monotonic()
        self._suspended_at: float | None = None
        """When the connection ended, while the core may still come back."""
        self._keeper = asyncio.create_task(self._keep_connected())

    def close(self) -> None:
        """Say BYE and let go of the socket, at once; what is live stays in the session."""
        self._keeper.cancel()
        self.send(Bye("closed"))
        self._unwatch_core()
        if self._watch is not None:
            self._watch.close()
        self._loop.remove_reader(self._fd)
        self._socket.close(linger=100)

    def add(self, request: RequestOutputs, core_name: str = "") -> bool:
        """Hand a request to the core, whole or from where it stopped; False if it could not be sent."""
        if not self.send(request.next_add()):
            return False
        request.on_sent(self.session.welcome, core_name)
        self.session.requests[request.request_id] = request
        return True

    def abort(self, request_ids: Iterable[RequestId], reason: str) -> None:
        """Stop these requests; those that are not live here are left out."""
        live = [request_id for request_id in request_ids if self.session.requests.pop(request_id, None) is not None]
        if live and not self.send(Abort(array("Q", live), reason)):
            self._unsent_aborts += live

    def send(self, message: ClientMessage) -> bool:
        """Send without blocking; False while the core is away or its queue is full, and after `close`."""
        if self._socket.closed:
            return False
        try:
            self._socket.send(codec.encode(message, self.session.epoch), zmq.DONTWAIT)
        except zmq.Again:
            return False
        finally:
            # ZMQ_FD is edge-triggered: a send may swallow the edge of an arrival.
            self._loop.call_soon(self._on_readable)
        return True

    # --- the socket ---

    def _on_readable(self) -> None:
        """Take in what has arrived; the rest of a long queue waits for the next turn of the event loop."""
        if self._socket.closed:
            return
        if self._owes_hello and int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
            self._owes_hello = not self.send(self._hello)
        if self._take_in():
            self._loop.call_soon(self._on_readable)

    def _take_in(self) -> bool:
        """Take in a bounded number of messages; True if there may be more."""
        if self._watch is not None:
            self._watch.take_events()
        if self._socket.closed:  # by our owner, who heard of a change
            return False
        for taken in range(_MAX_MESSAGES_PER_WAKE):
            try:
                data = self._socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                if taken:
                    self._on_change(self)
                return False
            self._on_message(data)
        self._on_change(self)
        return True

    def _on_message(self, data: bytes) -> None:
        session = self.session
        epoch_before, was_welcomed = session.epoch, session.is_welcomed
        message = session.receive(data)
        for answer in session.answers_to(message):
            self.send(answer)
        if isinstance(message, Welcome) and (not was_welcomed or session.epoch != epoch_before):
            self._suspended_at = None
            self._watch_core(message)
        if isinstance(message, Reply):
            self._on_reply(message)
        if isinstance(message, Bye):
            self._wake_keeper.set()
        if session.lost_request_ids:
            self._unsent_aborts += session.lost_request_ids
            session.lost_request_ids.clear()
            self._wake_keeper.set()

    async def _keep_connected(self) -> None:
        """Say HELLO until welcomed, then beat; retries what could not be sent."""
        sequence = 0
        while not self._socket.closed:  # by our owner, who heard of a change
            if self.session.is_welcomed:
                if self._remote is not None and self.session.beat_age_s > _REMOTE_LEASE_S:
                    self._give_up(f"it was silent for {_REMOTE_LEASE_S:.0f} s")
                    continue
                sequence += 1
                self.send(ClientBeat(sequence, len(self.session.requests)))
                self._on_beat(self)
                if self._unsent_aborts and self.send(Abort(array("Q", self._unsent_aborts))):
                    self._unsent_aborts.clear()
                await self._nap(_BEAT_INTERVAL_S)
            else:
                if self._remote is not None:
                    self._mend_connection(self._remote)
                    if self._socket.closed:
                        return
                self._owes_hello = not self.send(self._hello)
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
        if self._remote is not None:
            return
        self._core_pidfd = open_pidfd(welcome.core_pid, welcome.core_pid_start_ticks)
        if self._core_pidfd is None:
            self.session.lose("its process is gone")
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
        self.session.lose("its process ended")
        self._wake_keeper.set()
        self._on_change(self)

    # --- a core on another host ---

    def _on_connection_event(self, event: ConnectionEvent) -> None:
        """Something became of the connection, most often through the death of the core."""
        session = self.session
        if event is not ConnectionEvent.ENDED:
            session.detail = _PROBLEMS[event]
        elif self._suspended_at is None and (session.is_welcomed or session.requests):
            assert self._remote is not None, "no other connection is watched"
            log.warning("the connection to %s has ended", self._remote.endpoint)
            self._unsent_aborts.clear()
            session.suspend("its connection has ended")
            self._suspended_at = time.monotonic()
            self._wake_keeper.set()
            self._on_change(self)

    def _mend_connection(self, core: RemoteCore) -> None:
        """While it does not welcome us: give it up when it is time, and try a new connection now and then."""
        now, silent_s = time.monotonic(), self.session.beat_age_s
        has_no_more_time = self._suspended_at is not None and now - self._suspended_at > _RETURN_GRACE_S
        if has_no_more_time or (self.session.requests and silent_s > _REMOTE_LEASE_S):
            self._give_up(self.session.detail)
        if not self._socket.closed and min(silent_s, now - self._connected_at) > _NEW_CONNECTION_S:
            self._connected_at = now
            reconnect_to_core(self._socket, core)

    def _give_up(self, reason: str) -> None:
        self._suspended_at = None
        self._unsent_aborts.clear()
        self.session.lose(reason)
        self._on_change(self)
