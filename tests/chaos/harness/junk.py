"""Frames that no core should take, for its socket.

The sender stays connected until it is told to go: what a client sent shortly before it disconnects may be lost inside
of ZeroMQ, before the core could count it.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

from ipc.endpoints import connect_to_core


@contextmanager
def junk_sent(core_socket: Path, rng: random.Random, count: int) -> Iterator[None]:
    """Send so many messages of random bytes, and disconnect in the end."""
    with zmq.Context() as context:
        dealer = connect_to_core(context, core_socket)
        try:
            for _ in range(count):
                dealer.send_multipart([rng.randbytes(rng.randrange(50)) for _ in range(rng.randrange(1, 4))])
            yield
        finally:
            dealer.close(linger=1000)
