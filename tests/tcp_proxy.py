"""A network between a client and a core that a test can cut, in a thread of this process.

A cut link loses packets, which TCP sends again, so that no byte is lost while the connection lives: the proxy holds
everything back until the link is mended. Connections that are made meanwhile hang, as where packets are dropped.
"""

import contextlib
import os
import selectors
import socket
import threading

_PIECE_BYTES = 65536


class TcpProxy:
    """Forwards connections to one port of this host."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._other: dict[socket.socket, socket.socket] = {}
        self._near: set[socket.socket] = set()
        """The ends of the client."""
        self._lock = threading.Lock()
        self._is_whole = threading.Event()
        self._is_whole.set()
        self._wake, self._waker = os.pipe()
        self._is_open = True
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> "TcpProxy":
        return self

    def __exit__(self, *_) -> None:
        self._is_open = False
        self.mend()
        os.write(self._waker, b"x")
        self._thread.join()
        for each in (self._listener, *self._other):
            each.close()
        self._selector.close()
        os.close(self._wake)
        os.close(self._waker)

    def cut(self) -> None:
        """Nothing comes through from now on, and nobody is told."""
        self._is_whole.clear()

    def mend(self) -> None:
        """What was held back comes through, and everything after it."""
        self._is_whole.set()

    def end_connections(self, *, only_near: bool = False) -> None:
        """End those that there are; `only_near`: the core does not hear of it."""
        with self._lock:
            for near in list(self._near):
                far = self._other[near]
                self._forget(near)
                if not only_near:
                    self._forget(far)

    def _run(self) -> None:
        while self._is_open:
            for key, _ in self._selector.select():
                self._is_whole.wait()
                with self._lock, contextlib.suppress(OSError):
                    self._on_readable(key.fileobj)

    def _on_readable(self, source) -> None:
        if source is self._listener:
            near, _ = self._listener.accept()
            try:
                far = socket.create_connection(self._target)
            except OSError:  # nobody listens there
                near.close()
                return
            self._other |= {near: far, far: near}
            self._near.add(near)
            for each in (near, far):
                self._selector.register(each, selectors.EVENT_READ)
        elif source in self._other and source.fileno() >= 0:  # else it was ended meanwhile
            self._forward(source)

    def _forward(self, source: socket.socket) -> None:
        other = self._other[source]
        try:
            data = source.recv(_PIECE_BYTES)
            if data and other.fileno() >= 0:  # else the other end went alone
                other.sendall(data)
            if data:
                return
        except OSError:  # it is over
            pass
        self._forget(source)
        self._forget(other)

    def _forget(self, end: socket.socket) -> None:
        if end.fileno() >= 0 and end in self._selector.get_map():
            self._selector.unregister(end)
        self._near.discard(end)
        end.close()
