"""The I/O thread, stepped by the test where the order of events matters."""

import os
import subprocess
import sys
import time
from queue import SimpleQueue

import pytest
import zmq

from engine_core.client_sender import LEASE_S
from engine_core.io_thread import IoThread
from engine_core.outputs import RequestKey
from engine_core.step_clock import StepClock
from ipc import codec
from ipc.endpoints import connect_to_core
from ipc.messages import Bye, ClientRole, Hello
from ipc.own_sleep import OwnSleep
from ipc.process import pid_namespace, start_ticks


@pytest.fixture
def io_thread(tmp_path):
    thread = IoThread(tmp_path / "core.sock", 1, SimpleQueue(), StepClock(30))
    yield thread
    thread._door.close()
    os.close(thread._wake_fd)


def test_a_good_bye_and_a_death_seen_together_are_one_departure(io_thread, tmp_path):
    """The BYE closes the pidfd that the same poll reported as readable."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with zmq.Context() as context:
        dealer = connect_to_core(context, tmp_path / "core.sock")
        hello = Hello("child", ClientRole.FRONTEND, child.pid, start_ticks(child.pid), pid_namespace())
        dealer.send_multipart(codec.encode(hello, 0))
        while not io_thread._clients.all():  # its connection is an event of its own
            io_thread._on_events([source for source, _ in io_thread._poller.poll(5000)])
        [client] = io_thread._clients.all()
        dealer.send_multipart(codec.encode(Bye("closed"), 1))
        child.communicate()
        sources = [source for source, _ in io_thread._poller.poll(5000)]
        for order in (sources, [io_thread._socket, client.pidfd], [client.pidfd]):
            io_thread._on_events(order)
        dealer.close()
    assert io_thread._clients.all() == []


@pytest.fixture
def client(io_thread):
    """A client with a request, which the core has not heard for longer than its lease."""
    hello = Hello("far away", ClientRole.FRONTEND, 0, 0, 0)
    client = io_thread._clients.add(b"nobody", hello, None)
    client.live = {1: RequestKey(1)}
    client.heard_at -= LEASE_S + 2
    return client


def test_a_client_that_was_silent_for_too_long_is_evicted(io_thread, client):
    io_thread._forgive_own_sleep()
    io_thread._evict_silent_clients()
    assert io_thread._clients.all() == []


def test_a_core_that_slept_holds_the_silence_of_that_time_against_nobody(io_thread, client):
    io_thread._own_sleep = OwnSleep(time.monotonic() - LEASE_S - 2)
    io_thread._forgive_own_sleep()
    io_thread._evict_silent_clients()
    assert io_thread._clients.all() == [client]
