"""Frames that no core should take, for its socket."""

import random
from pathlib import Path

import zmq

from ipc.endpoints import connect_to_core


def send_junk(core_socket: Path, rng: random.Random, count: int) -> int:
    """Send so many messages of random bytes; returns how many."""
    with zmq.Context() as context:
        dealer = connect_to_core(context, core_socket)
        for _ in range(count):
            dealer.send_multipart([rng.randbytes(rng.randrange(50)) for _ in range(rng.randrange(1, 4))])
        dealer.close(linger=10_000)
    return count
