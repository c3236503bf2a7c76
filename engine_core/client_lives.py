"""Clients that come and leave: how each is watched, and when one is given up.

A client on this machine is watched by its pidfd, and by its lease while it waits for something; any other by its lease
alone. What this process slept is held against nobody. Owned by the I/O thread.
Invariant: all requests of a client that leaves are aborted.
"""

import logging
import os
import time
from queue import SimpleQueue

import zmq

from engine_core.client_registry import Client, ClientRegistry
from engine_core.client_sender import LEASE_S, ClientSender
from engine_core.events import AbortRequests, Event
from ipc.errors import ProtocolError
from ipc.messages import Bye, Hello
from ipc.own_sleep import OwnSleep
from ipc.process import open_pidfd, pid_namespace

log = logging.getLogger(__name__)

CLIENT_LOST = "client_lost"
"""Why requests were aborted whose client has left."""


class ClientLives:
    """Registers clients, and evicts them."""

    def __init__(self, clients: ClientRegistry, poller: zmq.Poller, inbox: "SimpleQueue[Event]") -> None:
        """`poller` watches the pidfds; whoever polls calls `evict` for one that is readable."""
        self._clients = clients
        self._poller = poller
        self._inbox = inbox
        self._namespace = pid_namespace()
        self._own_sleep = OwnSleep()

    def try_register(self, identity: bytes, hello: Hello) -> Client | None:
        """A new client; None if its process is gone already.

        Raises:
            ProtocolError: it says something impossible of itself.
        """
        if not 0 <= hello.pid < 2**31:
            raise ProtocolError(f"{hello.pid} is no pid")
        pidfd = None
        if hello.pid and hello.pid_namespace == self._namespace:
            try:
                pidfd = open_pidfd(hello.pid, hello.pid_start_ticks)
            except OSError as error:
                log.warning("client %s cannot be watched: %s", hello.client_name, error.strerror)
            else:
                if pidfd is None:
                    return None
                self._poller.register(pidfd, zmq.POLLIN)
        log.debug("client %s (pid %d) connected", hello.client_name, hello.pid)
        return self._clients.add(identity, hello, pidfd)

    def forgive_own_sleep(self) -> float:
        """Seconds since the last call in which this process did not run; what clients did not say or take then is
        not held against them."""
        slept_s = self._own_sleep.slept_s()
        if slept_s:
            self._clients.forgive(slept_s)
        return slept_s

    def evict_silent(self, sender: ClientSender) -> None:
        """Give up who was not heard for too long."""
        for client in self._clients.all():
            is_needed = client.pidfd is None or client.live  # the death of an idle client shows in its pidfd
            if is_needed and time.monotonic() - client.heard_at > LEASE_S:
                sender.send(client, Bye("evicted", "silent for too long"))
                self.evict(client, f"it was silent for {LEASE_S:.0f} s")

    def evict_all(self, reason: str) -> None:
        """Forget every client."""
        for client in self._clients.all():
            self.evict(client, reason)

    def evict(self, client: Client, reason: str) -> None:
        """Forget a client and abort all that it waits for; does nothing if it has left already."""
        if self._clients.by_slot(client.slot) is None:
            return
        if client.live:
            log.warning("client %s left with %d live requests: %s", client.name, len(client.live), reason)
            self._inbox.put(AbortRequests(tuple(client.live.values()), reason=CLIENT_LOST))
        if client.pidfd is not None:
            self._poller.unregister(client.pidfd)
            os.close(client.pidfd)
        self._clients.remove(client)
