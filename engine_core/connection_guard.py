"""Keeps the connections to the core's socket few, because libzmq ends the process when descriptors run out.

libzmq 4.3.5 aborts where accept() on an ipc socket fails with EMFILE (tried), and nothing in it bounds connections. So
the guard listens to the socket's monitor and cuts what exceeds a limit, of one process or in all: shutdown() on the
descriptor, which libzmq then takes for the peer's own end and closes. It also counts the connections that ended without
a BYE: where libzmq refuses a frame for its size, or a greeting that is none, nothing else shows.

Owned by the I/O thread. Invariant: libzmq is never more than `NUM_EVENTS_AHEAD` connections ahead of the guard, since
it waits for room in the queue of events; with `DESCRIPTORS_WANTED` descriptors, no flood of connections uses up all.
"""

import logging
import socket as sockets
import struct
from collections import Counter
from collections.abc import Callable

import zmq

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 512
MAX_CONNECTIONS_OF_PROCESS = 64
NUM_EVENTS_AHEAD = 1001
"""The queue of a libzmq monitor holds 1000 events, and ours one."""
_NUM_OWN_DESCRIPTORS = 512
"""Files, devices and libraries of the core itself: more than were ever seen."""
DESCRIPTORS_WANTED = 2 * MAX_CONNECTIONS + NUM_EVENTS_AHEAD + _NUM_OWN_DESCRIPTORS
"""Each connection may be of a client, whose process has a pidfd."""
_REMOTE = 0
"""Stands for the process of a connection from another host, or of one that is gone."""
_ENDPOINT = "inproc://connections"
_EVENT = struct.Struct("=Hi")
_CREDENTIALS = struct.Struct("3i")


class ConnectionGuard:
    """The connections of one bound socket."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes], num_descriptors: int
    ) -> None:
        """To be made before the socket is bound; `num_descriptors` is how many the process may have open."""
        self._context = context
        self._max_connections = MAX_CONNECTIONS
        if num_descriptors < DESCRIPTORS_WANTED:
            self._max_connections = max(16, min(MAX_CONNECTIONS, num_descriptors // 8))
            log.warning(
                "only %d file descriptors may be open (ulimit -n): a flood of connections could end the core; "
                "%d or more are safe",
                num_descriptors,
                DESCRIPTORS_WANTED,
            )
        socket.monitor(_ENDPOINT, zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._socket = socket
        self.events = context.socket(zmq.PAIR)
        """For a poller: readable while there is something for `take_events`."""
        self.events.setsockopt(zmq.RCVHWM, 1)
        self.events.connect(_ENDPOINT)
        self._process_of: dict[int, int] = {}
        """Of each open connection, by descriptor."""
        self._num_of_process: Counter[int] = Counter()
        self.num_cut = 0
        """Connections that were more than allowed."""
        self.num_ended = 0
        """Connections that are over, the cut ones included."""
        self._num_told = 0

    @property
    def num_open(self) -> int:
        """Connections of now."""
        return len(self._process_of)

    def take_events(self) -> None:
        """Take in what happened, and cut what is too much; of a flood as much as the queue holds, then others' turn."""
        for _ in range(NUM_EVENTS_AHEAD):
            try:
                event = self.events.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            kind, descriptor = _EVENT.unpack(event[0])
            if kind == zmq.EVENT_ACCEPTED:
                self._on_accepted(descriptor)
            elif kind == zmq.EVENT_DISCONNECTED:
                self._on_ended(descriptor)

    def report(self) -> None:
        """Log how many were cut since the last call."""
        if self.num_cut > self._num_told:
            log.warning("cut %d connections: more than are allowed at once", self.num_cut - self._num_told)
            self._num_told = self.num_cut

    def close(self) -> None:
        """End the watch, before the socket is closed."""
        self.take_events()
        self._socket.disable_monitor()
        self.events.close(linger=0)

    def _on_accepted(self, descriptor: int) -> None:
        if descriptor in self._process_of:  # its end was not told
            self._on_ended(descriptor)
        process = _with_descriptor(descriptor, _peer_pid)
        if process is None:
            return  # over already
        self._process_of[descriptor] = process
        self._num_of_process[process] += 1
        limit = self._max_connections // 2 if process == _REMOTE else MAX_CONNECTIONS_OF_PROCESS
        if self._num_of_process[process] > limit or self.num_open > self._max_connections:
            self.num_cut += 1
            _with_descriptor(descriptor, lambda connection: connection.shutdown(sockets.SHUT_RDWR))

    def _on_ended(self, descriptor: int) -> None:
        self.num_ended += 1
        process = self._process_of.pop(descriptor, None)
        if process is not None:
            self._num_of_process[process] -= 1
            if not self._num_of_process[process]:
                del self._num_of_process[process]


def _with_descriptor(descriptor: int, act: Callable[[sockets.socket], int | None]) -> int | None:
    """Do something with a connection that libzmq owns; None where it is gone, and its number perhaps another file's."""
    try:
        connection = sockets.socket(fileno=descriptor)
    except OSError:
        return None
    try:
        return act(connection)
    except OSError:
        return None
    finally:
        connection.detach()


def _peer_pid(connection: sockets.socket) -> int:
    if connection.family != sockets.AF_UNIX:
        return _REMOTE
    credentials = connection.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, _CREDENTIALS.size)
    pid: int = _CREDENTIALS.unpack(credentials)[0]
    return pid
