"""The I/O thread, stepped by the test where the order of events matters."""

import os
import subprocess
import sys
from array import array
from queue import SimpleQueue

import pytest
import zmq

from engine_core.events import AbortRequests
from engine_core.io_thread import IoThread
from engine_core.outputs import RequestKey
from engine_core.step_clock import StepClock
from ipc import codec
from ipc.endpoints import connect_to_core
from ipc.messages import DISCONNECT, STOP_STRING, Abort, Bye, ClientRole, Hello
from ipc.process import pid_namespace, start_ticks


@pytest.fixture
def io_thread(tmp_path):
    thread = IoThread(tmp_path / "core.sock", 1, SimpleQueue(), StepClock(30), lambda: None)
    yield thread
    thread._door.close()
    os.close(thread._wake_fd)


def test_a_good_bye_and_a_death_seen_together_are_one_departure(io_thread, tmp_path):
    """The BYE closes the pidfd that the same poll reported as readable."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with zmq.Context() as context:
        dealer = connect_to_core(context, tmp_path / "core.sock")
        hello = Hello("child", ClientRole.FRONTEND, child.pid, start_ticks(child.pid), pid_namespace())
        dealer.send(codec.encode(hello, 0))
        while not io_thread._clients.all():  # its connection is an event of its own
            io_thread._on_events([source for source, _ in io_thread._poller.poll(5000)])
        [client] = io_thread._clients.all()
        dealer.send(codec.encode(Bye("closed"), 1))
        child.communicate()
        sources = [source for source, _ in io_thread._poller.poll(5000)]
        for order in (sources, [io_thread._socket, client.pidfd], [client.pidfd]):
            io_thread._on_events(order)
        dealer.close()
    assert io_thread._clients.all() == []


@pytest.mark.parametrize(
    ("reason", "is_complete", "counted_as"),
    [(STOP_STRING, True, ""), (DISCONNECT, False, DISCONNECT), ("made up", False, ""), ("", False, "")],
)
def test_the_step_loop_hears_whether_an_aborted_answer_is_complete(io_thread, reason, is_complete, counted_as):
    client = io_thread._clients.add(b"client", Hello("client", ClientRole.FRONTEND, 0, 0, 0), None)
    client.live[3] = RequestKey(7)
    io_thread._on_message(b"client", Abort(array("Q", [3, 4]), reason), io_thread._epoch)
    assert io_thread._inbox.get_nowait() == AbortRequests((RequestKey(7),), is_complete, counted_as)


@pytest.mark.parametrize("num_frames", [0, 2, 3])
def test_a_message_is_one_frame(io_thread, num_frames):
    client = io_thread._clients.add(b"client", Hello("client", ClientRole.FRONTEND, 0, 0, 0), None)
    client.live[3] = RequestKey(7)
    abort = codec.encode(Abort(array("Q", [3])), io_thread._epoch)
    io_thread._on_frames(b"client", [abort] * num_frames)
    assert (io_thread._inbox.empty(), io_thread.num_bad_messages) == (True, 1)
    io_thread._on_frames(b"client", [abort])
    assert (io_thread._inbox.empty(), io_thread.num_bad_messages) == (False, 1)
