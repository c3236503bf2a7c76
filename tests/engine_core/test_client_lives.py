"""Who is given up, and who is not."""

import time
from queue import SimpleQueue

import pytest
import zmq

from engine_core.client_lives import CLIENT_LOST, ClientLives
from engine_core.client_registry import ClientRegistry
from engine_core.client_sender import LEASE_S, ClientSender
from engine_core.events import AbortRequests
from engine_core.outputs import RequestKey
from ipc.endpoints import make_core_socket
from ipc.messages import ClientRole, Hello
from ipc.own_sleep import OwnSleep

SILENCE_S = LEASE_S + 2


class House:
    """One client with a request, of another host, which was silent for longer than its lease."""

    def __init__(self, context):
        self.clients, self.inbox = ClientRegistry(), SimpleQueue()
        self.lives = ClientLives(self.clients, zmq.Poller(), self.inbox)
        self.socket = make_core_socket(context)
        self.sender = ClientSender(self.socket, self.clients, 1, self.lives.evict)
        self.client = self.lives.try_register(b"far away", Hello("far away", ClientRole.FRONTEND, 0, 0, 0))
        self.client.live = {1: RequestKey(7)}
        self.client.heard_at -= SILENCE_S


@pytest.fixture
def house():
    with zmq.Context() as context:
        house = House(context)
        yield house
        house.socket.close(0)


def test_who_is_silent_for_too_long_is_evicted_with_its_requests(house):
    assert house.lives.forgive_own_sleep() == 0
    house.lives.evict_silent(house.sender)
    assert house.clients.all() == []
    assert house.inbox.get_nowait() == AbortRequests((RequestKey(7),), reason=CLIENT_LOST)


def test_silence_while_this_process_slept_is_held_against_nobody(house):
    house.lives._own_sleep = OwnSleep(time.monotonic() - SILENCE_S)
    assert house.lives.forgive_own_sleep() == pytest.approx(SILENCE_S, abs=1)
    house.lives.evict_silent(house.sender)
    assert house.clients.all() == [house.client]
    house.client.heard_at -= SILENCE_S
    house.lives.evict_silent(house.sender)
    assert house.clients.all() == []


def test_an_eviction_is_done_once(house):
    for _ in range(2):
        house.lives.evict(house.client, "it left")
    assert house.inbox.qsize() == 1
