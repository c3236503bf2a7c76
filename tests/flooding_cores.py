"""Cores that talk without end and are killed in the middle of it, one after the other, on one socket.

    python -m tests.flooding_cores SOCKET COUNT

Each one welcomes the first client that it hears, and sends it STEPs as fast as it takes them. Where COUNT of them have
been killed, one more goes on. All ends with stdin.
"""

import os
import random
import select
import signal
import sys
from array import array
from itertools import count

import zmq

from ipc import codec
from ipc.endpoints import make_core_socket
from ipc.messages import Finished, FinishReason, RequestId, Started, Step
from ipc.process import start_ticks
from tests.factories import make_welcome

_PATIENCE_S = 20
"""A core without a client, or whose client takes nothing for so long, ends by itself."""


def run_core(path: str, epoch: int, begun_fd: int) -> None:
    """What one core does until it is killed."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = make_core_socket(context)
    router.setsockopt(zmq.RCVTIMEO, _PATIENCE_S * 1000)
    router.setsockopt(zmq.SNDTIMEO, _PATIENCE_S * 1000)
    router.bind(f"ipc://{path}")
    identity = router.recv_multipart()[0]

    def send(message):
        router.send_multipart([identity, codec.encode(message, epoch)])

    send(make_welcome(epoch=epoch, core_pid=os.getpid(), core_pid_start_ticks=start_ticks(os.getpid())))
    for sequence in count(1):
        if sequence == 100:
            os.write(begun_fd, b"!")
        send(_step(sequence))


def _step(sequence: int) -> Step:
    """One with many parts."""
    return Step(
        sequence,
        sequence,
        request_ids=array("Q", range(10)),
        token_ids=array("i", range(10)),
        finished=(Finished(RequestId(1), FinishReason.STOP, 1, 1),),
        started=(Started(RequestId(1), 0),),
        logprob_request_ids=array("Q", [1]),
        logprob_counts=array("i", [2]),
        logprob_ranks=array("i", [3]),
        logprob_token_ids=array("i", [4, 5]),
        logprobs=array("f", [-1.0, -2.0]),
    )


def main(path: str, num_killed: int) -> None:
    """Start and kill cores in turn; this process itself has no sockets."""
    delays = random.Random(num_killed)
    for epoch in range(1, num_killed + 2):
        read_fd, write_fd = os.pipe()
        pid = os.fork()
        if not pid:
            run_core(path, epoch, write_fd)
        has_begun = wait_for(read_fd)
        if has_begun:
            wait_for(timeout_s=delays.random() * 0.01 if epoch <= num_killed else None)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read_fd)
        os.close(write_fd)
        if not has_begun:
            break


def wait_for(*descriptors: int, timeout_s: float | None = None) -> bool:
    """True where one of them can be read; False after the time, or as soon as stdin ends."""
    readable, _, _ = select.select([sys.stdin, *descriptors], [], [], timeout_s)
    return bool(readable) and sys.stdin not in readable


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
