"""Junk for the core's socket, from a sender that stays connected until it is told to go.

What a client sent shortly before it disconnects may be lost inside of ZeroMQ, before the core could count it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq

from ipc.endpoints import connect_to_core
from tests.junk_frames import junk_messages


@contextmanager
def junk_sent(core_socket: Path, seed: int, count: int) -> Iterator[None]:
    """Send so many messages that no core takes, and disconnect in the end."""
    with zmq.Context() as context:
        dealer = connect_to_core(context, core_socket)
        try:
            for frames in junk_messages(seed, count):
                dealer.send_multipart(frames)
            yield
        finally:
            dealer.close(linger=1000)
